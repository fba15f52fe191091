import type { Job } from "./rounds.ts";

export const jobs: Job[] = [];
