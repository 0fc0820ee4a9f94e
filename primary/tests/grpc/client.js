// A gRPC client by @grpc/grpc-js. Each line of input is a number of calls to make; each line of output says who answered how often.
const readline = require('node:readline');
const grpc = require('@grpc/grpc-js');
require('@grpc/grpc-js-xds').register();

const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure());
const same = (bytes) => bytes;
const call = () =>
  new Promise((resolve) => {
    const metadata = new grpc.Metadata({ waitForReady: true });
    const options = { deadline: Date.now() + 5_000 };
    client.makeUnaryRequest('/shop.Stock/Who', same, same, Buffer.alloc(0), metadata, options, (error, answer) =>
      resolve(error ? error.message : answer.toString()),
    );
  });

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const answers = {};
    for (let left = Number(line); left > 0; left--) {
      const answer = await call();
      answers[answer] = (answers[answer] ?? 0) + 1;
    }
    console.log(JSON.stringify(answers));
  }
  process.exit(0);
})();
