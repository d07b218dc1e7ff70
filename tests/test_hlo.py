"""Reading compiled programs: cycles with trip counts, collectives, kernels."""

import pytest

from benchmarks import hlo

TEXT = """\
HloModule jit_step, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0:T(128)} parameter(0)
  ROOT %mul = f32[4]{0} multiply(%p, %p)
}

%bound (t: (s32[], f32[4])) -> pred[] {
  %t = (s32[], f32[4]{0}) parameter(0)
  %n = s32[] constant(7)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%inner (u: (s32[], f32[4])) -> (s32[], f32[4]) {
  %u = (s32[], f32[4]{0}) parameter(0)
  %f = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name=\
"jit(step)/transpose(jvp(net))/body/blocks/while/body/mixing/mul"}, \
backend_config={"estimated_cycles":"100"}
  %r = f32[4]{0} all-reduce(%f), to_apply=%sum
  ROOT %out = (s32[], f32[4]{0}) tuple(%i, %f)
}

%outer (v: (s32[], f32[4])) -> (s32[], f32[4]) {
  %v = (s32[], f32[4]{0}) parameter(0)
  ROOT %w = (s32[], f32[4]{0}) while(%v), condition=%bound, body=%inner
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %l = (s32[], /*index=1*/f32[4]{0}) while(%s), condition=%bound, body=%outer, \
backend_config={"known_trip_count":{"n":"3"}}
  %c = bf16[2,8]{1,0} copy(%a), metadata={op_name="jit(step)/pack"}, \
backend_config={"estimated_cycles":"50"}
  %g = (f32[4]{0}, f32[16]{0}) all-gather-start(%a), dimensions={0}
  %h = f32[16]{0} all-gather-done(%g)
  %r = (f32[32]{0}, f32[32]{0}) all-reduce-start(%a), to_apply=%add
  %s = ((f32[8,2]{1,0}), f32[1,2]{1,0}) reduce-scatter-start(%a), dimensions={0}
  %conv = (bf16[2,8]{1,0}, u8[0]{0}) custom-call(%c), \
custom_call_target="__cudnn$convForward"
  ROOT %o = f32[4]{0} get-tuple-element(%l), index=1
}
"""


def test_cycles_are_counted_in_every_trip() -> None:
    program = hlo.parse(TEXT)
    assert program.cycles == 3 * 7 * 100 + 50
    assert program.unknown_trips == 0
    assert program.dearest(2) == [
        ("step/net/body/blocks/mixing/mul (gradient)", "fusion", 2100),
        ("step/pack", "copy", 50),
    ]


def test_a_loop_without_a_bound_is_told() -> None:
    program = hlo.parse(TEXT.replace("constant(7)", "parameter(1)"))
    assert program.unknown_trips == 1  # of the loop whose text is walked once
    assert program.cycles == 3 * 100 + 50


def test_collectives_and_kernels() -> None:
    program = hlo.parse(TEXT)
    assert program.collectives() == {
        "all-reduce": {"calls": 22, "bytes": 21 * 16 + 128},
        "reduce-scatter": {"calls": 1, "bytes": 8},
        "all-gather": {"calls": 1, "bytes": 64},
    }
    kernels = program.kernels()
    assert kernels["fusion"] == 21 and kernels["__cudnn$convForward"] == 1


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[4,2]{1,0:T(8,128)}", 32),
        ("(bf16[3]{0}, pred[5]{0}, s32[])", 6 + 5 + 4),
        ("u8[0]{0}", 0),
    ],
)
def test_sizes_of_shapes(shape: str, size: int) -> None:
    assert hlo.shape_bytes(shape) == size
