/**
 * `bun run test:orders` runs what the companions state "in every order" over all their orders, of
 * which the suite tries a small part only. Takes minutes.
 */
const tests = Bun.spawn(
  [process.execPath, "test", "--test-name-pattern", "in every order", "--timeout", "300000"],
  { env: { ...process.env, ORDERS: "all" }, stdout: "pipe", stderr: "inherit" },
);

let total = 0;
let rest = "";
const decoder = new TextDecoder();
for await (const chunk of tests.stdout) {
  const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
  rest = lines.pop()!;
  for (const line of lines) {
    const [, orders] = line.match(/^orders: (\d+)$/) ?? [];
    if (orders) total += Number(orders);
    if (orders) console.log(`${total.toLocaleString("en")} orders`);
  }
}
process.exitCode = await tests.exited;
console.log(`${total.toLocaleString("en")} orders in all`);
