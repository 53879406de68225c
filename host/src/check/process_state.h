#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace outrider::check {

/// What code of a plugin must leave as it was: settings of LibTorch, the generator, the C library.
class ProcessState {
 public:
  static ProcessState now();
  /// Names of what differs.
  std::vector<std::string> changes_since(const ProcessState& before) const;

 private:
  struct Setting {
    const char* name;
    std::string value;
  };
  std::vector<Setting> settings_;
};

}  // namespace outrider::check
