"""What is read from the compiler's text, held against a program that is counted by hand."""

import pytest

from vla_jax.runtime import gpu_program
from vla_jax.runtime.gpu_program import Collective

TEXT = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%fused_add (param_0: f32[4]) -> f32[4] {
  %param_0 = f32[4]{0} parameter(0)
  ROOT %add.1 = f32[4]{0} add(%param_0, %param_0)
}

%sliced_gemm (p: bf16[4,4]) -> (bf16[4,4], s8[64]) {
  %p = bf16[4,4]{1,0} parameter(0)
  ROOT %gemm = (bf16[4,4]{1,0}, s8[64]{0}) custom-call(%p), custom_call_target="__cublas$lt$matmul"
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %state = (s32[], f32[4]{0}) parameter(0)
  %f.1 = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused_add, backend_config={"kind":"__triton"}
  %f.2 = (bf16[4,4]{1,0}, s8[64]{0}) fusion(%y), kind=kCustom, calls=%sliced_gemm, \
backend_config={"fusion_backend_config":{"kind":"__custom_fusion"}}
  %g = (bf16[10,64]{1,0}, bf16[80,64]{1,0}) all-gather-start(%z), dimensions={0}, \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}
  %h = bf16[80,64]{1,0} all-gather-done(%g)
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %f.1)
}

%condition (state.1: (s32[], f32[4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %w = (s32[], f32[4]{0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"27"}}
  %k = (bf16[2,8]{1,0}, u8[0]{0}) custom-call(%q), custom_call_target="__cudnn$fmhaSoftmax"
  %o = f32[4]{0} custom-call(%q), custom_call_target="TopK"
  %c = f32[4]{0} copy(%a)
  %r = (f32[100]{0}, f32[28]{0}) all-reduce-start(%c, %c), replica_groups=[4,2]<=[8], to_apply=%sum
  %s = f32[16]{0} reduce-scatter(%b), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %v = ((s32[16]{0}), s32[16]{0}) all-to-all-start(%b), replica_groups={}, dimensions={0}
  ROOT %last = f32[4]{0} fusion(%c), kind=kLoop, calls=%fused_add
}
"""


def test_kernels_are_counted_by_kind_and_as_often_as_they_run():
    assert gpu_program.read(TEXT).kernels == {
        "Triton": 27,
        "cuBLAS": 27,
        "cuDNN": 1,
        "TopK": 1,
        "copy": 1,
        "fusion": 1,
    }


@pytest.mark.parametrize(
    ("kind", "count", "sent"),
    [
        ("all-gather", 27, 27 * 7 * 10 * 64 * 2),  # seven parts of eight, once for each layer
        ("all-reduce", 1, 2 * 4 * 128 / 2),  # twice half of it, over two
        ("reduce-scatter", 1, 3 * 16 * 4),
        ("all-to-all", 1, 16 * 4 * 7 / 8),
    ],
)
def test_collectives_are_what_a_device_sends_around_a_ring(kind, count, sent):
    assert gpu_program.read(TEXT).collectives[kind] == Collective(count=count, sent=sent)


def test_a_program_of_one_device_sends_nothing():
    found = gpu_program.read("HloModule m\n\nENTRY %main (a: f32[4]) -> f32[4] {\n}\n")
    assert (found.kernels, found.collectives) == ({}, {})
