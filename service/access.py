"""How a client connects, and who it is there."""

from dataclasses import dataclass, field

import grpc
from grpc import aio

Options = tuple[tuple[str, str | int], ...]


@dataclass(frozen=True)
class Access:
    """In the clear where there are no `credentials`, else by TLS. `name`: the server's in its certificate, where that is not
    its address. `token`: carried by every call.
    """

    credentials: grpc.ChannelCredentials | None = None
    name: str = ""
    token: str = field(default="", repr=False)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def channel(self, server: str, options: Options = ()) -> aio.Channel:
        """A connection to HOST:PORT. Nothing is sent yet."""
        if self.credentials is None:
            return aio.insecure_channel(server, options=options)
        return aio.secure_channel(server, self.credentials, options=(*options, *self._options))

    def blocking_channel(self, server: str) -> grpc.Channel:
        """The same for those who wait."""
        if self.credentials is None:
            return grpc.insecure_channel(server)
        return grpc.secure_channel(server, self.credentials, options=self._options)

    @property
    def _options(self) -> Options:
        return (("grpc.ssl_target_name_override", self.name),) if self.name else ()


IN_THE_CLEAR = Access()
