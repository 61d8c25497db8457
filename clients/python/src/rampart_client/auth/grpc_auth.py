"""For gRPC channels of any client: tritonclient's, KServe's InferenceGRPCClient, stubs of one's own."""

from __future__ import annotations

from pathlib import Path

import grpc

from ..error import RampartError
from ..session import Session


class _TokenOfCall(grpc.AuthMetadataPlugin):  # type: ignore[misc,unused-ignore]
    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        """Called by gRPC for each call, in a thread of its own, also for `grpc.aio`."""
        try:
            self._session.check_destination(context.service_url)
            token = self._session.token()
        except (RampartError, OSError, ValueError) as error:
            callback((), error)
        else:
            callback((("authorization", f"Bearer {token}"),), None)


def grpc_credentials(session: Session) -> grpc.ChannelCredentials:
    """Credentials of a channel: the CA of the session, and a token with each call."""
    ca = Path(session.ca_file).read_bytes() if session.ca_file else None
    return grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(root_certificates=ca),
        grpc.metadata_call_credentials(_TokenOfCall(session), name="rampart"),
    )
