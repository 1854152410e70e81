//! How code runs on a core and how cores talk: the runtime facade over glommio and over the simulated world.
