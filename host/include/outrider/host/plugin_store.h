#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/host/plugin_info.h"
#include "outrider/host/plugin_lock.h"
#include "outrider/version.h"

namespace outrider {

/// A folder of plugins that someone chose to trust: files NAME-VERSION-HASH.outrider.so, HASH the
/// first twelve digits of the file's SHA-256, and the plugins.lock.json that vouches for them.
/// Several versions lie side by side. One process at a time changes it, others wait; one that is
/// killed leaves the old state or the new one, or a file that is not trusted yet and that the same
/// add() makes good. No plugin's code is run.
class OUTRIDER_API PluginStore {
 public:
  /// The first add() makes the folder. Throws kInvalidArgument for a relative path.
  explicit PluginStore(const std::filesystem::path& folder);
  /// The user's own, which is in the search path: below XDG_DATA_HOME or ~/.local/share, apart for
  /// every SDK ABI, LibTorch and platform. Throws kFileNotFound where neither folder is known.
  static PluginStore of_user();

  const std::filesystem::path& folder() const { return folder_; }

  struct AddOptions {
    bool replace = false;  // what has the same name and version, but other bytes
    std::string sha256;    // of the file that is expected; empty: any
  };
  struct Added {
    PluginInfo plugin;  // as it lies in the store
    bool is_new;        // false: the store had it already
    std::vector<PluginLock::Entry> replaced;
  };
  /// Copies the very bytes that pass the gates stamp, compatibility and dependencies, and then
  /// locks them. The given file may belong to anybody, but not lie in a checkpoint or data folder.
  /// Throws the gates' errors, kPluginHashMismatch for another file than the expected one,
  /// kPluginConflict where the name and version are taken, kPluginUntrusted where others can write
  /// to the store, kWriteFailed.
  Added add(const std::filesystem::path& file, const AddOptions& options) const;

  struct Removal {
    std::string name;
    std::optional<SemVer> version;
    bool all = false;  // every version
  };
  /// Takes plugins out of the lock file and then deletes them; says which. Throws kPluginNotFound,
  /// with the nearest names, and kPluginAmbiguous for one of several versions.
  std::vector<PluginLock::Entry> remove(const Removal& removal) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace outrider
