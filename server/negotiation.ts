/**
 * Which of several media types an `Accept` header prefers.
 *
 * @param offers those there are, the one for clients without a wish first
 * @returns one of them, or undefined if the client accepts none
 */
export function preferred<Offer extends string>(
  accept: string | null,
  offers: readonly [Offer, ...Offer[]],
): Offer | undefined {
  if (!accept?.trim()) return offers[0];
  const ranges = accept.split(",").map((range) => {
    const [type = "", ...parameters] = range.split(";").map((part) => part.trim().toLowerCase());
    const weight = parameters
      .find((parameter) => /^q\s*=/.test(parameter))
      ?.replace(/^q\s*=\s*/, "");
    return { type, weight: weight === undefined ? 1 : Number(weight) || 0 };
  });
  const weightOf = (offer: string) => {
    const [group] = offer.split("/");
    // The most specific range counts.
    for (const type of [offer, `${group}/*`, "*/*"]) {
      const range = ranges.find((range) => range.type === type);
      if (range) return range.weight;
    }
    return 0;
  };
  let best: Offer | undefined;
  for (const offer of offers) {
    if (weightOf(offer) > (best === undefined ? 0 : weightOf(best))) best = offer;
  }
  return best;
}
