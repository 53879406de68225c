#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {

/// What is wrong with one thing, collected so that one error can tell all of it.
class ProblemList {
 public:
  /// What `work` returns; nothing where it throws an Error, which is kept.
  template <class Work>
  std::optional<std::invoke_result_t<Work>> collect(const Work& work) {
    try {
      return work();
    } catch (const Error& error) {
      errors_.push_back(error);
      return std::nullopt;
    }
  }

  /// Throws the one problem as it was, or several of them under a line about `subject`, with the
  /// first one's code.
  void finish(const std::string& subject) const {
    if (errors_.empty()) return;
    if (errors_.size() == 1) throw errors_.front();
    std::vector<std::string> lines, hints;
    for (const auto& error : errors_) {
      lines.emplace_back(error.what());
      if (!error.hint().empty()) hints.push_back(error.hint());
    }
    throw Error(errors_.front().code(), subject + ":" + indented(lines), join(hints, "; "));
  }

 private:
  std::vector<Error> errors_;
};

}  // namespace outrider
