#include "outrider/decode/recorded_proposals.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace outrider::decode {
namespace {

// Of requests that are drafted by the same kernels.
std::string name_of(const DraftRequest& request) {
  if (request.form) {
    return fmt::format("parents {} ranks {}", fmt::join(request.form->parents, ","),
                       fmt::join(request.form->ranks, ","));
  }
  auto name =
      fmt::format("{} tokens, {} deep, {} wide", request.max_tokens, request.depth, request.width);
  if (!request.sampler) return name;
  const auto& sampling = request.sampler->options();
  return fmt::format("{}, drawn at {} from {} and {}", name, sampling.temperature, sampling.top_k,
                     sampling.top_p);
}

}  // namespace

DraftTree RecordedProposals::run(
    const DraftRequest& request, const std::vector<at::Tensor>& inputs,
    const std::function<DraftTree(const std::vector<at::Tensor>& inputs,
                                  const DraftRequest& request)>& draft) {
  const auto& first = inputs.front();
  if (!first.is_cuda() || request.on_logits) return draft(inputs, request);
  auto all = inputs;
  auto own = request;
  if (request.sampler) {
    all.push_back(request.sampler->numbers(request.max_tokens, first.size(0))
                      .to(first.device(), /*non_blocking=*/true));
  }
  auto& proposal = by_request_[fmt::format("{} of {} sequences", name_of(request), first.size(0))];
  const auto results = proposal.work.run(all, [&](std::vector<at::Tensor> given) {
    if (request.sampler) {
      own.numbers = given.back();
      given.pop_back();
    }
    const auto tree = draft(given, own);
    proposal.is_chain = tree.is_chain;
    return std::vector<at::Tensor>{tree.tokens, tree.parents, tree.q};
  });
  return {results[0], results[1], results[2], proposal.is_chain};
}

}  // namespace outrider::decode
