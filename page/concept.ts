/** The page of a concept. */
export {};
