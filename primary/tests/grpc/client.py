"""A gRPC client by grpcio. Each line of input is a number of calls to make; each line of output says who answered how often."""

import collections
import json
import sys

import grpc

target, credentials = sys.argv[1:]
if credentials == "mesh":
    channel = grpc.secure_channel(target, grpc.xds_channel_credentials())
else:
    channel = grpc.insecure_channel(target)
call = channel.unary_unary("/shop.Stock/Who", lambda text: text, lambda text: text)
for line in sys.stdin:
    answers = collections.Counter()
    for _ in range(int(line)):
        try:
            answers[call(b"", timeout=5, wait_for_ready=True).decode()] += 1
        except grpc.RpcError as error:
            answers[f"{error.code().name}: {error.details()}"] += 1
    print(json.dumps(answers), flush=True)
