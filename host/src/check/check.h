#pragma once

#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "check/check_base.h"
#include "outrider/host/plugin_check.h"
#include "outrider/sdk/mode_descriptor.h"

namespace outrider::check {

/// What a check throws when the plugin does not do what it must.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What a check throws when it says nothing about this plugin or machine.
struct Skip : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// An exception's text, of LibTorch's without the stack.
std::string text_of(const std::exception& error);

/// A mode, and the models to try it on.
struct ModeSubject {
  const ModeDescriptor& mode;
  const CheckBase& base;
  Json config;  // as a user gives it
};

/// Returns what was measured. Throws Failure and Skip; any other exception is a failure too.
struct ModeCheck {
  const char* name;
  const char* description;
  std::string (*run)(const ModeSubject&);
};

std::span<const ModeCheck> registration_checks();
std::span<const ModeCheck> conversion_checks();
std::span<const ModeCheck> training_checks();
std::span<const ModeCheck> storage_checks();
std::span<const ModeCheck> decoding_checks();

/// The operators that a plugin registered, one result each.
extern const CheckDescription kOperatorCheck;
std::vector<CheckResult> check_operators(const std::string& plugin);
/// Core's own, which every plugin finds in the dispatcher.
extern const CheckDescription kCoreOperatorCheck;
std::vector<CheckResult> check_core_operators();

}  // namespace outrider::check
