#include "outrider/problems.h"

#include "outrider/text.h"

namespace outrider {

void Problems::add_all(const std::vector<std::string>& problems) {
  problems_.insert(problems_.end(), problems.begin(), problems.end());
}

void Problems::throw_in_a_line(ErrorCode code, const std::string& subject,
                               const std::string& hint) const {
  if (!empty()) throw Error(code, subject + ": " + join(problems_, "; "), hint);
}

void Problems::throw_in_lines(ErrorCode code, const std::string& subject, const std::string& hint,
                              size_t limit) const {
  if (!empty()) throw Error(code, subject + ":" + indented(problems_, limit), hint);
}

}  // namespace outrider
