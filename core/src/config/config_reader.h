#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "outrider/json.h"
#include "outrider/problems.h"

namespace outrider {

/// Reads typed keys of a model's config and collects what is wrong with them, so that one error can
/// name every problem.
class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string origin);

  /// The key's value in [minimum, maximum]; `fallback` where it is absent or null. Without a
  /// fallback the key is required.
  int64_t integer(const char* key, std::optional<int64_t> fallback = {}, int64_t minimum = 1,
                  int64_t maximum = int64_t{1} << 31);
  double number(const char* key, std::optional<double> fallback = {});
  bool boolean(const char* key, bool fallback);
  std::string text(const char* key, const std::optional<std::string>& fallback = {});

  bool has(const char* key) const;
  void problem(std::string text) { problems_.add(std::move(text)); }
  /// Throws kInvalidConfig with all problems, if there are any.
  void finish() const;

 private:
  const Json* find(const char* key, bool required);
  void mistyped(const char* key, const Json& value, const char* expected);

  const Json& json_;
  std::string origin_;
  Problems problems_;
};

}  // namespace outrider
