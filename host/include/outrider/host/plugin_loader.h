#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "outrider/error.h"
#include "outrider/host/mode_registry.h"
#include "outrider/host/plugin_file.h"
#include "outrider/host/plugin_info.h"
#include "outrider/sdk/static_plugin.h"

namespace outrider {

/// Where plugins are looked for, first to last, and whether a lock file must vouch for them.
struct PluginPolicy {
  std::vector<std::filesystem::path> search_path;  // absolute folders
  bool require_lock = true;
  /// Linked into the program. Files with the name of one are refused, never loaded beside it.
  std::vector<StaticPlugin> built_in = {};

  /// `extra`, then OUTRIDER_PLUGIN_PATH, the user's store, and lib/outrider/plugins beside the
  /// program. Throws kInvalidArgument for a relative or empty element.
  OUTRIDER_API static PluginPolicy standard(const std::vector<std::filesystem::path>& extra = {},
                                            bool require_lock = true);
};

/// What is wanted: a name, a range, and the exact file when one is known.
struct PluginRequirement {
  std::string name, range = "*", sha256;
};

/// A built-in plugin, or a file in the search path that looks like one, and why it cannot be used,
/// if it cannot.
struct PluginListing {
  std::filesystem::path path;  // empty: built in
  std::optional<PluginInfo> info;
  std::string problem, hint;
  ErrorCode problem_code{};  // meaningful where there is a problem

  bool is_usable() const { return problem.empty(); }
  OUTRIDER_API void set_problem(const Error& error);
};

struct ProvidedName;

/// Finds, checks and loads plugins. Nothing is ever unloaded. Thread-safe.
class OUTRIDER_API PluginLoader {
 public:
  PluginLoader(PluginPolicy policy, SpeculativeDecodingModeRegistry& registry);

  /// The built-in plugins, then every `*.outrider.so` of the search path in its order; reads files,
  /// runs no plugin code.
  std::vector<PluginListing> list() const;

  /// The exact file if it is installed, else the highest version in range, and of different files
  /// of that version the one whose folder is searched first; the same answer whatever the order of
  /// directory entries. Throws kPluginNotFound (listing what is installed and the command that
  /// would help) or kPluginAmbiguous (two such files in one folder).
  PluginInfo resolve(const PluginRequirement& requirement) const;

  /// Resolves and loads; a plugin that is loaded already satisfies its requirement without work.
  const PluginInfo& load(const PluginRequirement& requirement);

  /// Loads this very file, wherever it lies and whether a lock vouches for it or not: for its
  /// author. Every other gate stays.
  const PluginInfo& load_unlocked(const std::filesystem::path& file);

  /// Loads the plugin that provides a mode, which checkpoints and users name. Throws kUnknownMode
  /// with the nearest names over all installed plugins.
  const RegisteredMode& load_mode(const std::string& mode);

  /// The names of all modes that usable plugins provide, loaded or not; sorted.
  std::vector<std::string> modes() const;

  /// Loads the plugin that provides a base architecture, if it is not known yet and one does.
  void load_base(const std::string& architecture);
  /// Loads the plugin that provides a mode's draft class for an architecture, if one does.
  void load_draft_model(const std::string& mode, const std::string& architecture);
  /// The loaded plugins, other than the mode's own, that a draft of this mode on such a base needs.
  std::vector<PluginRef> requirements(const std::string& mode,
                                      const std::string& architecture) const;

 private:
  PluginListing examine(const std::filesystem::path& path) const;
  void vet(const PluginFile& file, bool require_lock) const;
  const StaticPlugin* built_in(const std::string& name) const;
  const PluginInfo& load_chosen(const PluginInfo& wanted, bool require_lock);
  const PluginInfo& load_file(const PluginInfo& wanted, bool require_lock);
  void load_provider(const ProvidedName& wanted);

  PluginPolicy policy_;
  SpeculativeDecodingModeRegistry& registry_;
  mutable std::mutex mutex_;
  std::map<std::string, PluginInfo> loaded_;  // by plugin name
};

/// The process's registry and loader; never destroyed. The first call of loader() fixes its policy.
OUTRIDER_API SpeculativeDecodingModeRegistry& mode_registry();
OUTRIDER_API PluginLoader& plugin_loader(const PluginPolicy* policy = nullptr);

}  // namespace outrider
