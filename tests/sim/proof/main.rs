//! The simulator's own proof: its checkers turn red when they must, and a few hundred seeds are green.
