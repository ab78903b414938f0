"""What a step costs on several machines, by what it costs on one: from published figures of the links between them.

Every layer ends its attention and its MLP with a sum over all machines, and waits for it. So a step is its layers'
share, and twice a layer a sum that takes the link's latency, however few numbers it has. No MLX.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """How machines are connected.

    id:        in links
    latency_s: of one message
    bytes_s:   of long ones, one way
    mesh:      each is connected to each, so that a sum is one exchange, not a round of the ring
    source:    where the figures are from
    """

    id: str
    title: str
    latency_s: float
    bytes_s: float
    mesh: bool
    source: str

    def sum_s(self, size: int, machines: int) -> float:
        """Seconds of a sum of so many bytes over all machines, each of which gathers those of all others."""
        if machines == 1:
            return 0.0
        if self.mesh:
            return self.latency_s + size * (machines - 1) / self.bytes_s
        ways = 2 if machines > 2 else 1  # half of the numbers go each way round
        return (machines - 1) * (self.latency_s + size / ways / self.bytes_s)


TCP = "latency of TCP between Macs (jeffgeerling.com/blog/2025/15-tb-vram-on-mac-studio-rdma-over-thunderbolt-5)"
LINKS = (
    Link(
        "rdma",
        "Thunderbolt 5, RDMA (JACCL)",
        50e-6,
        7.6e9,
        True,
        "latency below 50 µs (jeffgeerling.com/blog/2025/15-tb-vram-on-mac-studio-rdma-over-thunderbolt-5), 7.6 GB/s "
        "(pytorch/pytorch#189856)",
    ),
    Link("thunderbolt", "Thunderbolt, TCP (ring)", 300e-6, 5e9, False, f"{TCP}; 40 Gb/s of Thunderbolt 4 by name"),
    Link("ethernet", "10 Gb Ethernet, TCP (ring)", 300e-6, 1.25e9, False, f"{TCP}; 10 Gb/s by name"),
)


@dataclass(frozen=True, slots=True)
class Split:
    """A target on several machines.

    layers:    of the target
    row_bytes: of one position's hidden state
    ends:      share of a step on one machine that each machine, or the first, has as before: norms, the head
    """

    machines: int
    link: Link
    layers: int
    row_bytes: int
    ends: float = 0.1

    def seconds(self, rows: int, alone: float) -> float:
        """Of a step or a verification of so many rows that takes `alone` on one machine."""
        sums = 2 * self.layers * self.link.sum_s(rows * self.row_bytes, self.machines)
        return alone * (self.ends + (1 - self.ends) / self.machines) + sums

    @property
    def title(self) -> str:
        return f"{self.machines} of this machine over {self.link.title.partition(' (')[0]}"

    @property
    def source(self) -> str:
        """In a sentence."""
        return (
            f"Worked out, not measured: a step here, shared by {self.machines}, with {2 * self.layers} waits in it "
            f"for a sum over {self.link.title}, each of {1e6 * self.link.latency_s:.0f} µs and the time that its "
            "numbers take. "
            f"{self.link.source[0].upper()}{self.link.source[1:]}. Drafters run on the first machine, as here."
        )

    def pays(self, rows: int, alone: float) -> bool:
        """Is that less than on one machine?"""
        return self.seconds(rows, alone) < alone

    @classmethod
    def offered(cls, counts: Sequence[int], layers: int, row_bytes: int) -> "tuple[Split, ...]":
        """Of a target that can be split over so many machines: over the fewest, by the fastest link and a plain one."""
        return tuple(cls(min(counts), link, layers, row_bytes) for link in LINKS[::2] if counts)
