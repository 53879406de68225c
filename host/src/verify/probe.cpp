#include "verify/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "checkpoint/model_tensors.h"
#include "first_line.h"
#include "outrider/error.h"
#include "outrider/files/json_file.h"
#include "outrider/host/checkpoint.h"
#include "outrider/version.h"
#include "verify/folder_facts.h"
#include "verify/probe_outputs.h"

namespace outrider::verify {
namespace {

namespace fs = std::filesystem;

constexpr int kFormatVersion = 1;
constexpr double kMostParametersOnCpu = 1.5e9;  // seconds, not minutes

// "model.layers.7.…": one of many like it.
bool is_of_a_layer(const std::string& name) {
  for (size_t i = name.find('.'); i != std::string::npos; i = name.find('.', i + 1)) {
    const auto end = name.find('.', i + 1);
    const auto part = name.substr(i + 1, end == std::string::npos ? end : end - i - 1);
    if (!part.empty() && std::ranges::all_of(part, [](unsigned char c) { return std::isdigit(c); }))
      return true;
  }
  return false;
}

double parameter_count(const CausalLM& model) {
  double count = 0;
  for (const auto& parameter : model.parameters()) count += static_cast<double>(parameter.numel());
  return count;
}

std::string obstacle(const CausalLM& model, const ProbeOptions& options) {
  if (!options.without_outputs.empty()) return options.without_outputs;
  if (model.has_edit(BaseEdit::kDropDecoderLayers)) return "the base has no decoder layers here";
  if (model.device().is_cpu() && parameter_count(model) > kMostParametersOnCpu) {
    return "the base is large for a CPU";
  }
  return {};
}

void add_outputs(CausalLM& model, const ProbeOptions& options, Json& probe) {
  auto reason = obstacle(model, options);
  probe["outputs"] = nullptr;
  if (reason.empty()) {
    try {
      probe["outputs"] = outputs_of(model);
    } catch (const std::exception& error) {  // a draft that cannot run yet is saved all the same
      reason = error.what();
    }
  }
  probe["without_outputs"] = first_line(reason);
}

}  // namespace

Json write_probe(CausalLM& model, const fs::path& folder, const ProbeOptions& options) {
  Json drafts = Json::object();
  for (const auto& attached : model.speculative_state()) {
    const auto prefix = attached.attribute + ".";
    drafts[attached.state.mode] =
        tensor_hashes(folder, [&](const std::string& name) { return name.starts_with(prefix); });
  }
  const auto is_of_base = [&](const std::string& name) {
    return !belongs_to_a_draft(model, name) && !is_of_a_layer(name);
  };
  auto base = tensor_hashes(folder, is_of_base, options.base_hashes);
  Json probe = {{"format_version", kFormatVersion},
                {"written_by", fmt::format("outrider {}", version())},
                {"facts", facts_of(folder)},
                {"base", base},
                {"drafts", drafts}};
  add_outputs(model, options, probe);
  write_json_file(folder / kProbeFile, probe);
  return base;
}

std::function<void(const fs::path&)> probe_without_outputs(CausalLM& model) {
  return [&model](const fs::path& folder) {
    write_probe(model, folder, {.without_outputs = "the model was not run when it was written"});
  };
}

std::optional<Probe> Probe::read(const fs::path& folder) {
  const auto path = folder / kProbeFile;
  if (!fs::exists(fs::symlink_status(path))) return std::nullopt;
  const auto json = read_json_file(path);
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kInvalidFile, fmt::format("{}: {}", path.string(), what),
                "remove the file to verify without it");
  };
  if (!json.is_object()) refuse("not a JSON object");
  if (json.value("format_version", Json()) != kFormatVersion) {
    refuse(fmt::format("format_version is not {}", kFormatVersion));
  }
  for (const char* key : {"facts", "base", "drafts"}) {
    if (!json.value(key, Json()).is_object()) refuse(fmt::format("'{}' is no object", key));
  }
  for (const char* key : {"base", "modes", "tokenizer"}) {
    if (!json["facts"].value(key, Json()).is_object()) refuse(fmt::format("no facts of '{}'", key));
  }
  const auto reason = json.value("without_outputs", Json(""));
  return Probe{json["facts"], json["base"], json["drafts"], json.value("outputs", Json()),
               reason.is_string() ? reason.get<std::string>() : ""};
}

}  // namespace outrider::verify
