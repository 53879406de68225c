#include "outrider/loss/teacher.h"

#include <ATen/ATen.h>

#include "outrider/ops/linear.h"

namespace outrider::loss {

Teacher::Teacher(const BaseOutputs& base, at::Tensor target_ids)
    : hidden_(base.last_hidden.detach().flatten(0, 1)),
      whole_weight_(base.head->weight().detach()),
      weight_(target_ids.defined() ? whole_weight_.index_select(0, target_ids) : whole_weight_),
      logits_(base.logits.defined() ? base.logits.detach().flatten(0, 1) : at::Tensor()),
      target_ids_(std::move(target_ids)) {}

ops::TeacherTargets Teacher::targets(const at::Tensor& rows) const {
  if (!logits_.defined()) {
    return {hidden_.index_select(0, rows),
            [weight = weight_](const at::Tensor& r) { return ops::linear(r, weight); },
            {}};
  }
  return {rows,
          [logits = logits_, ids = target_ids_](const at::Tensor& r) {
            const auto whole = logits.index_select(0, r);
            return ids.defined() ? whole.index_select(1, ids) : whole;
          },
          {}};
}

at::Tensor Teacher::measure_whole_vocabulary(const at::Tensor& rows,
                                             ops::TeacherTargets& targets) const {
  const auto whole = logits_.defined()
                         ? ops::stored_logit_statistics(logits_, rows)
                         : ops::streaming_logit_statistics(targets.rows, whole_weight_);
  targets.full_log_sum_exp = whole.log_sum_exp;
  return at::isin(whole.argmax, target_ids_, /*assume_unique=*/false);
}

}  // namespace outrider::loss
