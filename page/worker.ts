/** Runs what the visitor sees, without a network. */
export {};
