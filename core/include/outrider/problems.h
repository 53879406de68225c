#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "outrider/api.h"
#include "outrider/error.h"

namespace outrider {

/// What is wrong with one thing, collected so that one error tells all of it.
class OUTRIDER_API Problems {
 public:
  void add(std::string problem) { problems_.push_back(std::move(problem)); }
  void add_when(bool condition, std::string problem) {
    if (condition) add(std::move(problem));
  }
  void add_all(const std::vector<std::string>& problems);
  bool empty() const { return problems_.empty(); }
  const std::vector<std::string>& all() const { return problems_; }

  /// Throws "SUBJECT: ONE; OTHER" if there are problems.
  void throw_in_a_line(ErrorCode code, const std::string& subject,
                       const std::string& hint = "") const;
  /// The same with a line for each, and how many more there are beyond `limit`.
  void throw_in_lines(ErrorCode code, const std::string& subject, const std::string& hint = "",
                      size_t limit = 20) const;

 private:
  std::vector<std::string> problems_;
};

}  // namespace outrider
