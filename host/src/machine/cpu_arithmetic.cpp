#include "cpu_arithmetic.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/cpu/Utils.h>
#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

// oneDNN's own check; it knows ONEDNN_MAX_CPU_ISA.
bool onednn_has_bfloat16() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_is_mkldnn_bf16_supported", "")
                             .typed<bool()>();
  return op.call();
}

// oneDNN also says yes where it widens each number to emulate the product, slower than float32.
bool has_bfloat16_instructions() {
  const auto capabilities = at::cpu::get_cpu_capabilities();
  const auto has = [&](const char* name) {
    const auto found = capabilities.find(name);
    return found != capabilities.end() && found->second.isBool() && found->second.toBool();
  };
  return has("avx512_bf16") || has("amx_bf16") || has("bf16");  // the last is Arm's name
}

}  // namespace

bool has_fast_bfloat16() {
  const char* given = std::getenv("OUTRIDER_CPU_BFLOAT16");
  const std::string_view answer = given ? given : "";
  if (answer == "fast" || answer == "slow") return answer == "fast";
  if (answer.empty()) return onednn_has_bfloat16() && has_bfloat16_instructions();
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("OUTRIDER_CPU_BFLOAT16 is {}", in_quotes(answer, 40)),
              "accepted are fast and slow; leave it unset and LibTorch is asked");
}

at::ScalarType computing_type(at::ScalarType stored, at::Device device) {
  const bool widens = device.is_cpu() && stored == at::kBFloat16 && !has_fast_bfloat16();
  return widens ? at::kFloat : stored;
}

}  // namespace outrider
