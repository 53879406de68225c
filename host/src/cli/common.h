#pragma once

#include <ATen/core/Tensor.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "outrider/host/plugin_loader.h"
#include "outrider/json.h"

namespace outrider::cli {

/// Options that every verb has.
struct GlobalOptions {
  bool json = false;  // machine-readable results on stdout
  std::vector<std::filesystem::path> plugin_dirs;
  bool allow_unlocked_plugins = false;
};

/// A verb below `parent` whose help ends with `example`. Its options go on the returned command,
/// its work into callback(); an outrider::Error thrown there reaches the user as text and exit
/// status.
CLI::App* add_verb(CLI::App& parent, const std::string& name, const std::string& description,
                   const std::string& example);

/// Where the options let plugins come from, beside those that are linked into the program.
PluginPolicy plugin_policy(const GlobalOptions& options);

/// Sets the process's plugin policy from the options; call before anything loads a plugin.
void use_plugins(const GlobalOptions& options);

/// Rows of text printed under aligned headings.
class Table {
 public:
  explicit Table(std::vector<std::string> headings);
  void add(std::vector<std::string> row);
  void print() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

/// Indented JSON on stdout.
void print_json(const Json& value);

/// "key.subkey=value": sets the dotted key; the value is JSON where it parses, else a string.
/// Throws kInvalidArgument for a missing '=' or an empty key.
void apply_setting(Json& config, const std::string& assignment);

/// "cpu", "cuda" or "cuda:N". Throws kInvalidArgument, or kDeviceUnavailable when there is none.
at::Device parse_device(const std::string& name);

/// --max-shard-size: bytes, or a number with a unit such as 5GB.
void add_shard_size_option(CLI::App& verb, int64_t& bytes);

/// --base: where a checkpoint that holds drafts only finds its base.
void add_base_option(CLI::App& verb, std::filesystem::path& base);

/// --reference-numerics, of verbs that read a converted model: LoadOptions::reference_numerics.
void add_numerics_option(CLI::App& verb, std::optional<std::string>& numerics);

/// One line on stderr.
void note(const std::string& text);
/// The same, as "note: …".
void show_note(const std::string& text);

}  // namespace outrider::cli
