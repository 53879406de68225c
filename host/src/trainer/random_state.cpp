#include "trainer/random_state.h"

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <fmt/format.h>

#include <map>
#include <mutex>
#include <string>

#include "outrider/error.h"

namespace outrider {
namespace {

std::map<std::string, at::Generator> generators(at::Device device) {
  std::map<std::string, at::Generator> all;
  all.emplace("random.cpu", at::globalContext().defaultGenerator(at::kCPU));
  if (!device.is_cpu()) {
    all.emplace("random." + at::DeviceTypeName(device.type(), /*lower_case=*/true),
                at::globalContext().defaultGenerator(device));
  }
  return all;
}

}  // namespace

void seed_generators(at::Device device, uint64_t seed) {
  for (auto& [name, generator] : generators(device)) {
    const std::lock_guard lock(generator.mutex());
    generator.set_current_seed(seed);
  }
}

TensorMap random_state(at::Device device) {
  TensorMap state;
  for (auto& [name, generator] : generators(device)) {
    const std::lock_guard lock(generator.mutex());
    state[name] = generator.get_state();
  }
  return state;
}

void set_random_state(at::Device device, const TensorMap& state) {
  for (auto& [name, generator] : generators(device)) {
    const auto found = state.find(name);
    if (found == state.end()) {
      throw Error(ErrorCode::kIncompatibleCheckpoint,
                  fmt::format("the training state has no '{}'", name),
                  "resume on the kind of device that the run was started on");
    }
    const std::lock_guard lock(generator.mutex());
    generator.set_state(found->second);
  }
}

RandomStateScope::RandomStateScope(at::Device device, uint64_t seed)
    : device_(device), state_(random_state(device)) {
  seed_generators(device, seed);
}

RandomStateScope::~RandomStateScope() { set_random_state(device_, state_); }

}  // namespace outrider
