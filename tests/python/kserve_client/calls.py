"""A program as users of KServe's clients write it: infers past the end of its tokens.

    python calls.py rest|rest-http2|grpc < what.json

Run by an interpreter that has kserve, which is not that of the tests (requirements.in).
"""

from __future__ import annotations

import asyncio
import json
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

from accounts import WatchedSession
from rampart_client import Password
from rampart_client.auth import HttpxAuth, grpc_credentials

TOKEN_IS_OVER_S = 700


async def main(protocol: str, what: dict) -> dict:
    session = WatchedSession(
        what["front"], ca_file=what["ca_file"], auth=Password(what["user"], what["password"]), retry_for_s=0
    )
    if protocol == "grpc":
        client, base = InferenceGRPCClient(session.authority, creds=grpc_credentials(session)), ()
        named = ()
    else:
        config = RESTConfig(
            protocol="v2",
            auth=HttpxAuth(session),
            verify=session.ssl_context(),
            http2=protocol == "rest-http2",
        )
        client, base, named = InferenceRESTClient(config), (session.url,), (what["model"],)

    async with client:
        found = {
            "live": await client.is_server_live(*base),
            "ready": await client.is_server_ready(*base),
            "model ready": await client.is_model_ready(*base, what["model"]),
            "unknown model ready": await client.is_model_ready(*base, "no-such-model"),
            "answers": [],
        }
        features = np.array(what["features"], np.float32)
        for binary in (False, True):
            answer = await client.infer(*base, request(what["model"], features, binary), *named)
            found["answers"].append(
                {
                    "model": [answer.model_name, answer.model_version, answer.id],
                    **{output.name: output.as_numpy().tolist() for output in answer.outputs},
                }
            )
            session.clock.ahead_s += TOKEN_IS_OVER_S
        try:
            await client.infer(*base, request(what["model"], features[:, 1:], True), *named)
        except httpx.HTTPStatusError as refusal:
            found["refusal"] = [refusal.response.status_code, str(refusal)]
        except grpc.RpcError as refusal:
            found["refusal"] = [refusal.code().name, refusal.details()]
    return {**found, "asked": session.asked}


def request(model: str, features: np.ndarray, binary: bool) -> InferRequest:
    tensor = InferInput("input", list(features.shape), "FP32")
    tensor.set_data_from_numpy(features, binary_data=binary)
    return InferRequest(model, [tensor], request_id="a-request", parameters={"binary_data_output": binary})


print(json.dumps(asyncio.run(asyncio.wait_for(main(sys.argv[1], json.load(sys.stdin)), 90))))
