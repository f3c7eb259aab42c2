// Gathers this instruction set's kernels into its table.

namespace stoker::STOKER_ISA {

#define STOKER_TEXT(x) #x
#define STOKER_NAME(x) STOKER_TEXT(x)

const Kernels kKernels = {
    .name = STOKER_NAME(STOKER_ISA),
#if defined(__AVX512BF16__)
    .kv_type = KvType::bf16,
#else
    .kv_type = KvType::f16,
#endif
    .matmul = matmul,
    .adapt_down = adapt_down,
    .adapt_up = adapt_up,
    .quantize = quantize,
    .quantize_twice = quantize_twice,
    .rms_norm = rms_norm,
    .add = add_to,
    .scale = scale,
    .softcap = softcap,
    .swiglu = swiglu,
    .geglu = geglu,
    .clamped_swiglu = clamped_swiglu,
    .rotate = rotate,
    .store_key = store_key,
    .store_value = store_value,
    .widen_keys = widen_keys,
    .widen_values = widen_values,
    .attend = attend,
    .merge = merge,
    .divide = divide,
    .argmax = argmax,
    .exp_terms = exp_terms,
    .dot_loop = dot_loop,
    .fma_loop = fma_loop,
#if defined(__AVX512BF16__)
    .bfloat_loop = bfloat_loop,
#else
    .bfloat_loop = nullptr,
#endif
    .read_loop = read_loop,
};

}  // namespace stoker::STOKER_ISA
