#include "trainer/resume_point.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "outrider/error.h"
#include "outrider/text.h"
#include "trainer/training_state.h"

namespace outrider {
namespace {

namespace fs = std::filesystem;

std::string names_of(const std::vector<fs::path>& folders) {
  std::vector<std::string> names;
  for (const auto& folder : folders) names.push_back(folder.filename().string());
  return join(names, ", ");
}

fs::path find_chosen(const fs::path& run, const fs::path& chosen,
                     const std::vector<fs::path>& folders) {
  const auto is_meant = [&](const fs::path& folder) {
    std::error_code none;
    return folder.filename() == chosen || fs::equivalent(folder, chosen, none);
  };
  const auto found = std::ranges::find_if(folders, is_meant);
  if (found != folders.end()) return *found;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("--resume-from {}: no checkpoint of the run in {}",
                          printable(chosen.string(), 400), in_quotes(run.string())),
              folders.empty() ? "the run has no checkpoint: --resume starts it again from step 0"
                              : "it has " + names_of(folders));
}

std::string way_on(const fs::path& damaged, const std::vector<fs::path>& folders) {
  const auto at = std::ranges::find(folders, damaged);
  for (auto it = std::make_reverse_iterator(at); it != folders.rend(); ++it) {
    if (!damages(*it).empty()) continue;
    return fmt::format("{} is older and whole: continue from it with --resume-from {}",
                       in_quotes(it->string()), it->filename().string());
  }
  return fmt::format(
      "no older checkpoint is whole: start a new run in another folder, or delete {} "
      "for --resume to begin this one again",
      in_quotes(damaged.string()));
}

void require_whole(const fs::path& checkpoint, const std::vector<fs::path>& folders) {
  const auto problems = damages(checkpoint);
  if (problems.empty()) return;
  throw Error(ErrorCode::kInvalidFile,
              fmt::format("the checkpoint {} is damaged: {}", in_quotes(checkpoint.string()),
                          join(problems, "; ")),
              way_on(checkpoint, folders));
}

fs::path free_name(const fs::path& folder) {
  const auto base = "set-aside-" + folder.filename().string();
  auto path = folder.parent_path() / base;
  for (int i = 2; fs::exists(path); ++i)
    path = folder.parent_path() / fmt::format("{}-{}", base, i);
  return path;
}

}  // namespace

std::optional<fs::path> resume_point(const fs::path& run, const fs::path& chosen) {
  const auto folders = checkpoint_folders(run);
  if (folders.empty() && chosen.empty()) return std::nullopt;
  auto checkpoint = chosen.empty() ? folders.back() : find_chosen(run, chosen, folders);
  require_whole(checkpoint, folders);
  return checkpoint;
}

void require_newest(const fs::path& run, const fs::path& checkpoint) {
  const auto folders = checkpoint_folders(run);
  if (!folders.empty() && folders.back() == checkpoint) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("another process has trained in {} since {} was read",
                          in_quotes(run.string()), in_quotes(checkpoint.filename().string())),
              "give the command again: it takes up what that process left");
}

std::vector<fs::path> set_aside_newer(const fs::path& run, int64_t step) {
  std::vector<fs::path> places;
  for (const auto& folder : checkpoint_folders(run)) {
    if (step_in_name(folder) <= step) continue;
    places.push_back(free_name(folder));
    fs::rename(folder, places.back());
  }
  return places;
}

}  // namespace outrider
