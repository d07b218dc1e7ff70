"""Statistics of a compiled program from its text: cycles, collectives, kernels.

The text is XLA's optimised HLO. For a TPU it contains the compiler's estimate of the
cycles of each operation; here they are multiplied by the trip counts of the loops
around the operation.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_ARRAY = r"\b(pred|[a-z]+\d+)\[([\d,]*)\]"
_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}


@dataclass(frozen=True)
class Operation:
    """An operation that runs on its own, `times` times in a call of the program."""

    name: str
    opcode: str
    shape: str  # of its result, as HLO prints it
    cycles: int  # once; 0 without an estimate
    times: int
    place: str  # in the program that was traced: scopes and the primitive
    text: str

    @property
    def total(self) -> int:
        """Cycles in a call of the program."""
        return self.cycles * self.times


@dataclass
class Program:
    """A compiled program's operations, inside loops as well."""

    operations: list[Operation] = field(default_factory=list)
    unknown_trips: int = 0  # loops with an unknown trip count, counted as 1

    @property
    def cycles(self) -> int:
        """The estimate of all operations, with trip counts."""
        return sum(operation.total for operation in self.operations)

    def dearest(self, count: int) -> list[tuple[str, str, int]]:
        """The places with the most cycles: (place, opcodes, cycles)."""
        cycles: dict[str, int] = defaultdict(int)
        opcodes: dict[str, set[str]] = defaultdict(set)
        for operation in self.operations:
            cycles[operation.place] += operation.total
            opcodes[operation.place].add(operation.opcode)
        ranked = sorted(cycles, key=lambda place: -cycles[place])[:count]
        return [(p, " ".join(sorted(opcodes[p])), cycles[p]) for p in ranked]

    def collectives(self) -> dict[str, dict[str, int]]:
        """Calls and bytes of results, by kind."""
        found: dict[str, dict[str, int]] = {}
        for operation in self.operations:
            kind = operation.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                row = found.setdefault(kind, {"calls": 0, "bytes": 0})
                row["calls"] += operation.times
                row["bytes"] += operation.times * _result_bytes(operation)
        return found

    def kernels(self) -> dict[str, int]:
        """Launches of a GPU's kernels by kind."""
        found: dict[str, int] = defaultdict(int)
        for operation in self.operations:
            kind = operation.opcode
            if kind == "custom-call":
                match = re.search(r'custom_call_target="([^"]*)"', operation.text)
                kind = match[1] if match else kind
            if kind == "fusion" and '"__triton' in operation.text:
                kind = "triton"
            found[kind] += operation.times
        return dict(found)


def shape_bytes(shape: str) -> int:
    """The size of arrays or of a tuple of them, as HLO prints it; without padding."""
    total = 0
    for kind, dimensions in re.findall(_ARRAY, shape):
        bits = _BITS.get(kind) or int(re.sub(r"\D", "", kind))
        total += bits // 8 * prod(int(n) for n in dimensions.split(",") if n)
    return total


def _result_bytes(operation: Operation) -> int:
    """Bytes of a collective; the start of one is a pair of operands and results."""
    if not operation.opcode.endswith("-start"):
        return shape_bytes(operation.shape)
    arrays = re.findall(_ARRAY, operation.shape)
    results = arrays[len(arrays) // 2 :]
    return sum(shape_bytes(f"{kind}[{sizes}]") for kind, sizes in results)


_SILENT = {
    "bitcast",
    "constant",
    "get-tuple-element",
    "iota",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}


def parse(text: str) -> Program:
    """The program of a compiled module's text."""
    computations, entry = _computations(text)
    program = Program()
    program.operations.extend(_walk(computations, entry, 1, program))
    return program


_Computations = dict[str, list[tuple[str, str]]]  # (name, the rest of the line)


def _computations(text: str) -> tuple[_Computations, str]:
    computations: _Computations = {}
    entry, lines = "", []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head:
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif body := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", line):
            lines.append((body[1], body[2]))
    return computations, entry


def _walk(
    computations: _Computations, name: str, times: int, program: Program
) -> Iterator[Operation]:
    for operation, rest in computations[name]:
        shape, opcode = _shape_and_opcode(rest)
        if opcode == "while":
            body = re.search(r"body=%?([\w.\-]+)", rest)
            assert body
            trips = times * _trips(computations, rest, program)
            yield from _walk(computations, body[1], trips, program)
        elif opcode in ("call", "conditional", "async-start"):
            for inner in _called(rest):
                yield from _walk(computations, inner, times, program)
        elif opcode not in _SILENT and not opcode.endswith("-done"):
            cycles = re.search(r'"estimated_cycles":"(\d+)"', rest)
            place = re.search(r'op_name="([^"]*)"', rest)
            yield Operation(
                operation,
                opcode,
                shape,
                int(cycles[1]) if cycles else 0,
                times,
                readable(place[1]) if place else "",
                rest,
            )


def _called(rest: str) -> list[str]:
    """The computations that a call or a branch enters."""
    single = re.findall(r"(?:to_apply|calls|_computation)=%?([\w.\-]+)", rest)
    many = re.search(r"branch_computations=\{([^}]*)\}", rest)
    return single + (re.findall(r"%?([\w.\-]+)", many[1]) if many else [])


def _shape_and_opcode(rest: str) -> tuple[str, str]:
    """Splits "f32[2]{0} add(...)" into "f32[2]{0}" and "add"; shapes may be tuples."""
    depth = 0
    for place, letter in enumerate(rest):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == " " and not depth:
            return rest[:place], rest[place + 1 :].split("(", 1)[0]
    return rest, ""


def _trips(computations: _Computations, rest: str, program: Program) -> int:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", rest)
    assert condition
    lines = [line for _, line in computations[condition[1]]]
    for called in [
        c for line in lines for c in re.findall(r"calls=%?([\w.\-]+)", line)
    ]:
        lines += [line for _, line in computations[called]]
    bounds = [int(n) for line in lines for n in re.findall(r"constant\((\d+)\)", line)]
    program.unknown_trips += not bounds
    return max(bounds, default=1)


def readable(place: str) -> str:
    """A place without the parts that jax.jit and its transformations add.

    Gradients are marked by "(gradient)", what is computed again for them "(again)".
    """
    marks = ""
    if "transpose(" in place:
        marks += " (gradient)"
    if "rematted_computation" in place:
        marks += " (again)"
    place = re.sub(r"\bwhile/(?:body|cond)/", "", place)
    place = re.sub(r"\b(?:transpose|jvp|jit|vmap|pmap|shard_map)\(", "", place)
    parts = [part.strip("()") for part in place.split("/")]
    dull = {"", "while", "closed_call", "checkpoint", "rematted_computation"}
    return "/".join(part for part in parts if part not in dull) + marks
