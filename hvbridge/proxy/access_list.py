"""Which clients a forward takes: the sources that its `allow` names."""

import ipaddress
from collections.abc import Sequence

from hvbridge.address.client_id import ClientId, Network, Source
from hvbridge.hyperv.constants import VMADDR_CID_HOST
from hvbridge.hyperv.guid import HOST


class AccessList:
    """Allows the clients that come from one of ``sources``."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._networks = [source for source in sources if isinstance(source, Network)]
        self._others = {source for source in sources if not isinstance(source, Network)}

    def allows(self, client_id: ClientId) -> bool:
        """Whether a client may connect; one whose transport does not tell where it is may not."""
        if isinstance(client_id, str):
            address = ipaddress.ip_address(client_id.partition("%")[0])
            if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            return any(address in network for network in self._networks)
        if (
            client_id == VMADDR_CID_HOST and HOST in self._others
        ):  # in a Linux guest, where the host has a CID
            return True
        return client_id in self._others
