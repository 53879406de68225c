#include "eagle_drafter.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "outrider/decode/draft_tree.h"
#include "outrider/decode/recorded_proposals.h"
#include "outrider/decode/stepwise.h"
#include "outrider/kernels/recorded_work.h"

namespace outrider::eagle {
namespace {

constexpr int64_t kUsualAnswer = 1024;  // rows that there is room for before slots move

std::vector<int64_t> row_counts(const BaseOutputs& accepted, const at::Tensor& tokens) {
  if (!accepted.row_counts.empty()) return accepted.row_counts;
  const auto counts = tokens.ge(0).sum(1).to(at::kCPU);
  const auto* first = counts.const_data_ptr<int64_t>();
  return {first, first + counts.numel()};
}

// outputs [B,n,h] → [B,1,h] of the last tokens [B,n] that are not -1.
at::Tensor last_of(const at::Tensor& outputs, const at::Tensor& counts) {
  return outputs.gather(1, (counts - 1).unsqueeze(2).expand({-1, 1, outputs.size(2)}));
}

// [B,1].
at::Tensor counts_of(const at::Tensor& tokens) { return tokens.ge(0).sum(1, /*keepdim=*/true); }

int64_t most_of_level(const TreeForm& form) {
  size_t most = 1;
  for (const auto& level : decode::levels_of(form)) most = std::max(most, level.size());
  return static_cast<int64_t>(most);
}

}  // namespace

EagleDrafter::EagleDrafter(EagleDraft& draft) : draft_(draft) {}

void EagleDrafter::begin(int64_t sequences, int64_t rows) {
  if (!cache_) cache_ = std::make_unique<nn::KvCache>(draft_.decoder().num_layers(), sequences);
  cache_->restart(sequences);
  cache_->expect(rows + kUsualAnswer);
  lengths_.assign(static_cast<size_t>(sequences), 0);
  device_lengths_.reset();
}

void EagleDrafter::prefill(const BaseOutputs& accepted, const at::Tensor& tokens) {
  if (head_ != accepted.head) cache_.reset();
  head_ = accepted.head;
  begin(tokens.size(0), tokens.size(1));
  commit(accepted, tokens);
}

void EagleDrafter::commit(const BaseOutputs& accepted, const at::Tensor& tokens) {
  cache_->truncate(lengths_);
  const auto states = draft_.decoder().start(accepted);
  const int64_t rows = tokens.size(1);
  if (can_record({rows, rows})) {
    commit_recorded(states, tokens);
  } else {
    commit_as_it_is(states, tokens);
  }
  const auto counts = row_counts(accepted, tokens);
  for (size_t b = 0; b < counts.size(); ++b) lengths_[b] += counts[b];
  cache_->truncate(lengths_);
}

void EagleDrafter::commit_as_it_is(const at::Tensor& states, const at::Tensor& tokens) {
  state_ = last_of(advance(states, tokens.clamp_min(0), {}), counts_of(tokens));
  device_lengths_.reset();
}

void EagleDrafter::commit_recorded(const at::Tensor& states, const at::Tensor& tokens) {
  auto& work = cache_->prepared<kernels::RecordedWork>(
      fmt::format("first steps of {} rows", tokens.size(1)));
  const auto results =
      work.run({states, tokens, lengths_on_device()}, [&](const std::vector<at::Tensor>& inputs) {
        const auto& ids = inputs[1];
        const auto outputs = advance_behind(inputs[2], inputs[0], ids.clamp_min(0), {});
        const auto counts = counts_of(ids);
        return std::vector<at::Tensor>{last_of(outputs, counts), inputs[2] + counts};
      });
  state_ = results[0];
  device_lengths_ = results[1];
  cache_->commit(std::vector<int64_t>(lengths_.size(), tokens.size(1)));
}

at::Tensor EagleDrafter::advance(const at::Tensor& states, const at::Tensor& tokens,
                                 const at::Tensor& seen) {
  nn::CachedPass pass(*cache_, tokens.size(1), tokens.device(), seen);
  const auto outputs = draft_.decoder().advance(states, tokens, *head_, pass);
  cache_->commit(std::vector<int64_t>(lengths_.size(), tokens.size(1)));
  return outputs;
}

at::Tensor EagleDrafter::advance_behind(const at::Tensor& lengths, const at::Tensor& states,
                                        const at::Tensor& tokens, const at::Tensor& seen) {
  nn::CachedPass pass(*cache_, tokens.size(1), lengths, seen);
  return draft_.decoder().advance(states, tokens, *head_, pass);
}

// Rows that follow others: the slots are there, and are made enough.
bool EagleDrafter::can_record(const Rows& rows) {
  if (cache_->longest() == 0 || !state_.is_cuda()) return false;
  cache_->make_room(rows.all);
  return cache_->prepared<bool>(
      fmt::format("whether {} rows advance in few kernels", rows.at_once), [&] {
        const auto like =
            at::empty({cache_->batch_size(), rows.at_once, state_.size(2)}, state_.options());
        return std::make_shared<bool>(draft_.decoder().takes_few_rows(like));
      });
}

const at::Tensor& EagleDrafter::lengths_on_device() {
  if (!device_lengths_.defined()) {
    device_lengths_ = at::tensor(lengths_, at::kLong).unsqueeze(1).to(head_->device());
  }
  return device_lengths_;
}

DraftTree EagleDrafter::drafted(const at::Tensor& state, const DraftRequest& request,
                                const auto& advance) {
  return decode::draft_stepwise(
      {.state = state,
       .logits = [&](const at::Tensor& states) { return draft_.logits(states, *head_); },
       .advance = advance,
       .vocabulary = draft_.target_ids(),
       .vocab_size = head_->vocab_size()},
      request);
}

EagleDrafter::Rows EagleDrafter::rows_of(const DraftRequest& request) {
  if (request.form) {
    return {most_of_level(*request.form), static_cast<int64_t>(request.form->parents.size())};
  }
  const int64_t steps = request.width == 1 ? request.max_tokens : request.depth;
  return {request.width, request.width * steps};
}

DraftTree EagleDrafter::propose(const DraftRequest& request) {
  const auto rows = rows_of(request);
  if (!can_record(rows)) return propose_as_it_is(request);
  auto& proposals = cache_->prepared<decode::RecordedProposals>("proposals");
  return proposals.run(
      request, {state_, lengths_on_device()},
      [&](const std::vector<at::Tensor>& inputs, const DraftRequest& own) {
        int64_t behind = 0;
        return drafted(
            inputs[0], own,
            [&](const at::Tensor& states, const at::Tensor& tokens, const at::Tensor& seen) {
              const auto lengths = behind > 0 ? inputs[1] + behind : inputs[1];
              behind += tokens.size(1);
              return advance_behind(lengths, states, tokens, seen);
            });
      });
}

DraftTree EagleDrafter::propose_as_it_is(const DraftRequest& request) {
  return drafted(state_, request,
                 [&](const at::Tensor& states, const at::Tensor& tokens, const at::Tensor& seen) {
                   return advance(states, tokens, seen);
                 });
}

void EagleDrafter::keep(const std::vector<int64_t>& sequences) {
  cache_->keep(sequences);
  std::vector<int64_t> lengths;
  for (const int64_t b : sequences) lengths.push_back(lengths_[static_cast<size_t>(b)]);
  lengths_ = std::move(lengths);
  device_lengths_.reset();
  state_ = state_.index_select(0, at::tensor(sequences, at::kLong).to(state_.device()));
}

}  // namespace outrider::eagle
