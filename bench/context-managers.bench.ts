import { contextManager, exitStack, withContext } from "../concepts/context-managers.ts";
import { checkThresholds } from "./thresholds.ts";

const work = async () => {};
const setUp = work;
const cleanUp = work;
const open = contextManager(async function* () {
  await setUp();
  try {
    yield;
  } finally {
    await cleanUp();
  }
});
const acquire = async () => {
  await setUp();
  return { [Symbol.asyncDispose]: cleanUp };
};

await checkThresholds([
  {
    name: "setup, work, cleanup, with errors passed on",
    subject: ["withContext", () => withContext(open(), work)],
    baseline: [
      "try/finally",
      async () => {
        await setUp();
        try {
          await work();
        } finally {
          await cleanUp();
        }
      },
    ],
    atMost: 11,
  },
  {
    name: "setup, work, cleanup, at the end of the block",
    subject: [
      "await using contextManager",
      async () => {
        await using _handle = await open();
        await work();
      },
    ],
    baseline: [
      "await using AsyncDisposable",
      async () => {
        await using _handle = await acquire();
        await work();
      },
    ],
    atMost: 7,
  },
  {
    name: "ten cleanups",
    subject: [
      "exitStack",
      () =>
        exitStack((stack) => {
          for (let n = 0; n < 10; n++) stack.defer(cleanUp);
        }),
    ],
    baseline: [
      "AsyncDisposableStack",
      async () => {
        await using stack = new AsyncDisposableStack();
        for (let n = 0; n < 10; n++) stack.defer(cleanUp);
      },
    ],
    atMost: 2.7,
  },
]);
