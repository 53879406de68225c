#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "outrider/api.h"
#include "outrider/kernels/recorded_work.h"
#include "outrider/model/drafter.h"

namespace outrider::decode {

/// A drafter's proposals on a GPU, each form of request recorded as a whole: the host spends no
/// time on its kernels (kernels::RecordedWork says what such work must be like). Elsewhere they are
/// drafted as they are.
class OUTRIDER_API RecordedProposals {
 public:
  /// What `draft` makes of the inputs [B,…], as draft_stepwise() does: it reads what changes from
  /// round to round there alone, and draws with `request` as it gets it: `max_tokens` times, since
  /// the random numbers are drawn ahead. The next call may overwrite the tree. A request with
  /// `on_logits` is drafted as it is.
  DraftTree run(const DraftRequest& request, const std::vector<at::Tensor>& inputs,
                const std::function<DraftTree(const std::vector<at::Tensor>& inputs,
                                              const DraftRequest& request)>& draft);

 private:
  struct Proposal {
    kernels::RecordedWork work;
    bool is_chain = false;
  };
  std::map<std::string, Proposal> by_request_;
};

}  // namespace outrider::decode
