#include "check/process_state.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/InferenceMode.h>
#include <unistd.h>

#include <cfenv>
#include <clocale>
#include <filesystem>

#include "outrider/host/sha256.h"

namespace outrider::check {
namespace {

std::string generator_state() {
  const auto state = at::globalContext().defaultGenerator(at::kCPU).get_state();
  return sha256_of({static_cast<const char*>(state.const_data_ptr()), state.nbytes()});
}

}  // namespace

ProcessState ProcessState::now() {
  ProcessState state;
  const auto add = [&](const char* name, std::string value) {
    state.settings_.push_back({name, std::move(value)});
  };
  add("the default dtype", std::string(c10::get_default_dtype().name()));
  add("the grad mode", std::to_string(at::GradMode::is_enabled()));
  add("the inference mode", std::to_string(c10::InferenceMode::is_enabled()));
  add("the random generator", generator_state());
  add("the number of threads", std::to_string(at::get_num_threads()));
  add("deterministic algorithms", std::to_string(at::globalContext().deterministicAlgorithms()));
  add("the rounding mode", std::to_string(std::fegetround()));
  add("the locale", std::setlocale(LC_ALL, nullptr));
  add("the working directory", std::filesystem::current_path().string());
  return state;
}

std::vector<std::string> ProcessState::changes_since(const ProcessState& before) const {
  std::vector<std::string> changed;
  for (size_t i = 0; i < settings_.size(); ++i) {
    if (settings_[i].value != before.settings_[i].value) changed.push_back(settings_[i].name);
  }
  return changed;
}

}  // namespace outrider::check
