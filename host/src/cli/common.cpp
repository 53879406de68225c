#include "cli/common.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "outrider/error.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/text.h"

namespace outrider::cli {

CLI::App* add_verb(CLI::App& parent, const std::string& name, const std::string& description,
                   const std::string& example) {
  auto* verb = parent.add_subcommand(name, description);
  verb->footer("Example:\n  " + example);
  verb->fallthrough();
  return verb;
}

PluginPolicy plugin_policy(const GlobalOptions& options) {
  auto folders = options.plugin_dirs;
  // Whoever types a folder means the one below the current folder; an empty one stays an error.
  for (auto& folder : folders) {
    if (!folder.empty()) folder = std::filesystem::absolute(folder);
  }
  auto policy = PluginPolicy::standard(folders, !options.allow_unlocked_plugins);
  policy.built_in = static_plugins();
  return policy;
}

void use_plugins(const GlobalOptions& options) {
  const auto policy = plugin_policy(options);
  if (options.allow_unlocked_plugins) note("warning: plugins are loaded without a lock file");
  plugin_loader(&policy);
}

Table::Table(std::vector<std::string> headings) : rows_{std::move(headings)} {}

void Table::add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

void Table::print() const {
  std::vector<size_t> widths(rows_.front().size());
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::print("{}\n", line);
  }
}

void print_json(const Json& value) { fmt::print("{}\n", value.dump(2)); }

void apply_setting(Json& config, const std::string& assignment) {
  const auto equals = assignment.find('=');
  const auto key = assignment.substr(0, equals);
  if (equals == std::string::npos || key.empty() || key.front() == '.' || key.back() == '.' ||
      key.find("..") != std::string::npos) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--set {}: not of the form key=value", printable(assignment)),
                "for example --set eagle_ttt_steps=4 or --set "
                "eagle_architecture_config.num_hidden_layers=2");
  }
  const auto text = assignment.substr(equals + 1);
  auto value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) value = text;
  Json* at = &config;
  for (size_t begin = 0; begin <= key.size();) {
    const auto end = std::min(key.find('.', begin), key.size());
    if (!at->is_object()) *at = Json::object();
    at = &(*at)[key.substr(begin, end - begin)];
    begin = end + 1;
  }
  *at = std::move(value);
}

namespace {

void require_present(at::Device device) {
  if (!device.is_cuda()) return;
  const auto count = at::detail::getCUDAHooks().deviceCount();
  if (device.index() < count) return;
  throw Error(ErrorCode::kDeviceUnavailable,
              fmt::format("--device {}: this machine has {} CUDA device{}", device.str(), count,
                          count == 1 ? "" : "s"),
              "count from 0; with torchrun start as many processes as there are devices");
}

}  // namespace

at::Device parse_device(const std::string& name) {
  const bool is_cuda = name == "cuda" || name.starts_with("cuda:");
  if (name != "cpu" && !is_cuda) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--device {}: unknown device", printable(name)),
                "accepted are cpu, cuda and cuda:N");
  }
  if (is_cuda && !at::hasCUDA()) {
    throw Error(ErrorCode::kDeviceUnavailable,
                fmt::format("--device {}: no CUDA device, or LibTorch has no CUDA support", name),
                "run on the CPU with --device cpu, or see `outrider doctor`");
  }
  try {
    const at::Device device(name == "cuda" ? "cuda:0" : name);
    require_present(device);
    return device;
  } catch (const c10::Error&) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--device {}: not a device number", printable(name)),
                "accepted are cpu, cuda and cuda:N");
  }
}

void add_shard_size_option(CLI::App& verb, int64_t& bytes) {
  verb.add_option("--max-shard-size", bytes, "Split weights into files of at most this size (5GB)")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->type_name("SIZE");
}

void add_base_option(CLI::App& verb, std::filesystem::path& base) {
  verb.add_option("--base", base,
                  "Base of a folder that holds drafts only (default: where the folder says)")
      ->type_name("DIR");
}

void add_numerics_option(CLI::App& verb, std::optional<std::string>& numerics) {
  verb.add_option("--reference-numerics", numerics,
                  "Of a ModelOpt checkpoint: the release as which it computes, 0.47 or 0.42 "
                  "(default: the one that wrote it)");
}

void note(const std::string& text) {
  std::fflush(stdout);
  fmt::print(stderr, "{}\n", text);
}

void show_note(const std::string& text) { note("note: " + text); }

}  // namespace outrider::cli
