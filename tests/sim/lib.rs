//! The simulator: whole nodes in one thread from a seed, the work that clients give them, the faults they
//! meet, and the checkers of what they did.
