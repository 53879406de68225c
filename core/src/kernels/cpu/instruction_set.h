#pragma once

namespace outrider::kernels::cpu {

/// The instruction sets that CPU kernels are compiled for.
enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

/// The best one that this machine has.
inline InstructionSet best_instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return InstructionSet::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return InstructionSet::kAvx2;
#endif
  return InstructionSet::kBaseline;
}

}  // namespace outrider::kernels::cpu
