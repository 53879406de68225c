#include <fmt/format.h>

#include "check/check.h"
#include "outrider/error.h"
#include "outrider/host/convert.h"
#include "outrider/text.h"

namespace outrider::check {
namespace {

std::string join_or_throw(const std::vector<std::string>& problems, std::string passed) {
  if (problems.empty()) return passed;
  throw Failure(join(problems, "; "));
}

void check_refused(const ConfigSchema& schema, const Json& config, const std::string& what,
                   std::vector<std::string>& problems) {
  try {
    schema.resolve(config);
    problems.push_back(what + " is accepted");
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kInvalidConfig) {
      problems.push_back(
          fmt::format("{} is refused with {}, not InvalidConfig", what, error_code_name(e.code())));
    }
  }
}

std::string check_schema(const ModeSubject& subject) {
  const auto& schema = subject.mode.config_schema();
  std::vector<std::string> problems;
  const auto resolved = schema.resolve(Json::object());
  if (schema.resolve(resolved) != resolved) problems.push_back("resolving twice changes a config");
  for (const auto& field : schema.fields()) {
    if (field.description.empty())
      problems.push_back(in_quotes(field.name) + " has no description");
  }
  if (subject.mode.description().empty()) problems.push_back("the mode has no description");
  check_refused(schema, {{"no_such_key_anywhere", 1}}, "an unknown key", problems);
  if (schema.json_schema().value("additionalProperties", true)) {
    problems.push_back("its JSON Schema admits unknown keys");
  }
  return join_or_throw(problems, fmt::format("{} fields", schema.fields().size()));
}

std::string check_presets(const ModeSubject& subject) {
  const auto presets = subject.mode.presets();
  if (presets.empty()) throw Skip("the mode has no presets");
  std::vector<std::string> problems;
  for (const auto& preset : presets) {
    try {
      auto config = preset.overrides;
      config.merge_patch(subject.config);
      const auto model = subject.base.model();
      speculative::convert(*model, {{{subject.mode.name(), config}}});
    } catch (const std::exception& e) {
      problems.push_back(fmt::format("{}: {}", preset.name, text_of(e)));
    }
  }
  return join_or_throw(problems, fmt::format("{} presets convert", presets.size()));
}

constexpr ModeCheck kRegistrationChecks[] = {
    {"schema", "config fields are described, defaults resolve, unknown keys are refused",
     check_schema},
    {"presets", "every preset converts", check_presets}};

}  // namespace

std::span<const ModeCheck> registration_checks() { return kRegistrationChecks; }

}  // namespace outrider::check
