/** The list of concepts. */
export {};
