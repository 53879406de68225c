#include "cli/mode_check_verb.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "checkpoint/model_folder.h"
#include "cli/config_options.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/convert.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

namespace fs = std::filesystem;

struct ModeCheckArguments {
  std::string mode;
  ConfigChoice choice;
  std::vector<fs::path> files;
  fs::path base;
  std::optional<std::string> reference_numerics;
};

/// A config to check, and what to call it.
struct Candidate {
  std::string source;
  Json config;
};

/// What a config comes to: {"config": …, "metadata": …, "notes": […]}. Throws why it is refused.
using Check = std::function<Json(const Json& config)>;

std::vector<Candidate> candidates(const ModeCheckArguments& arguments) {
  std::vector<Candidate> found;
  for (const auto& path : arguments.files) {
    const auto file = read_json_file(path);
    if (!file.is_array()) {
      found.push_back({path.string(), file});
      continue;
    }
    for (size_t i = 0; i < file.size(); ++i) {
      found.push_back({fmt::format("{}[{}]", path.string(), i), file[i]});
    }
  }
  if (arguments.files.empty()) found.push_back({arguments.mode, Json::object()});
  return found;
}

Check check_alone(const RegisteredMode& mode) {
  return [&mode](const Json& config) {
    return Json{{"config", mode.descriptor->config_schema().resolve(config)}};
  };
}

Check check_on_base(const ModeCheckArguments& arguments) {
  const std::shared_ptr<const CausalLM> base = base_structure(read_config(arguments.base));
  ConvertOptions options;
  options.reference_numerics = arguments.reference_numerics;
  return [base, options, mode = arguments.mode](const Json& config) {
    const ModeRequest request(std::vector<ModeRequest::Item>{{mode, config}});
    const auto planned = speculative::plan(*base, request, options).front();
    return Json{
        {"config", planned.config}, {"metadata", planned.metadata}, {"notes", planned.notes}};
  };
}

Json verdict(const Candidate& candidate, const ModeCheckArguments& arguments, const Check& check) {
  Json verdict = {{"source", candidate.source}, {"valid", true}};
  try {
    const auto& given = candidate.config;
    verdict.update(check(
        given.is_object() ? combined_config(arguments.mode, arguments.choice, given) : given));
  } catch (const Error& e) {
    verdict["valid"] = false;
    verdict["error"] = {
        {"code", error_code_name(e.code())}, {"message", e.what()}, {"hint", e.hint()}};
  }
  return verdict;
}

void print_accepted(const Json& verdict, const ConfigSchema& schema) {
  for (const auto& field : schema.fields()) {
    const auto& value = verdict["config"][field.name];
    if (value != field.default_value) fmt::print("  {} = {}\n", field.name, value.dump());
  }
  for (const auto& text : verdict.value("notes", Json::array())) {
    fmt::print("  note: {}\n", text.get<std::string>());
  }
}

void print_refused(const Json& error) {
  fmt::print("  {}\n", error["message"].get<std::string>());
  const auto hint = error["hint"].get<std::string>();
  if (!hint.empty()) fmt::print("  hint: {}\n", hint);
}

void print_verdicts(const Json& verdicts, const ConfigSchema& schema) {
  for (const auto& verdict : verdicts) {
    const bool valid = verdict["valid"].get<bool>();
    fmt::print("{}: {}\n", printable(verdict["source"].get<std::string>(), 1000),
               valid ? "valid" : "refused");
    valid ? print_accepted(verdict, schema) : print_refused(verdict["error"]);
  }
}

void check_configs(const ModeCheckArguments& arguments, const GlobalOptions& global) {
  use_plugins(global);
  if (arguments.reference_numerics && arguments.base.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "--reference-numerics means nothing without --base",
                "name the base with --base");
  }
  const auto& mode = plugin_loader().load_mode(arguments.mode);
  const auto check = arguments.base.empty() ? check_alone(mode) : check_on_base(arguments);
  auto verdicts = Json::array();
  for (const auto& candidate : candidates(arguments)) {
    verdicts.push_back(verdict(candidate, arguments, check));
  }
  global.json ? print_json(verdicts) : print_verdicts(verdicts, mode.descriptor->config_schema());
  const auto refused = std::ranges::count(verdicts, Json(false),
                                          [](const Json& verdict) { return verdict["valid"]; });
  if (refused == 0) return;
  throw Error(ErrorCode::kInvalidConfig,
              fmt::format("{} of {} configs refused", refused, verdicts.size()));
}

}  // namespace

void add_mode_check_verb(CLI::App& mode, const GlobalOptions& options) {
  auto* verb = add_verb(mode, "check", "Check configs of a mode without converting anything",
                        "outrider mode check eagle --config mine.json --base SmolLM2");
  const auto arguments = std::make_shared<ModeCheckArguments>();
  verb->add_option("NAME", arguments->mode, "The mode's name")->required();
  add_config_options(*verb, arguments->choice);
  verb->add_option("--config", arguments->files,
                   "JSON file with a config, or with a list of them (repeatable)")
      ->allow_extra_args(false);
  verb->add_option("--base", arguments->base,
                   "Folder of the base: also check what conversion of it would refuse, all but the "
                   "memory it takes")
      ->type_name("DIR");
  verb->add_option("--reference-numerics", arguments->reference_numerics,
                   "With --base: for the numerics of this ModelOpt release, 0.47 or 0.42");
  verb->callback([arguments, &options] { check_configs(*arguments, options); });
}

}  // namespace outrider::cli
