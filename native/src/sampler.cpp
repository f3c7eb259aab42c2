#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "philox.h"

namespace stoker {

namespace {

double total_of(const SampleScratch& scratch, int vocab) {
  double total = 0.0;
  for (int chunk = 0; chunk * kSumChunk < vocab; ++chunk) total += scratch.chunk_sums[static_cast<size_t>(chunk)];
  return total;
}

// Sorts the best candidates to the front, `count` of them at least, by (term descending, token id ascending).
void sort_front(std::vector<int>& candidates, const std::vector<float>& terms, size_t begin, size_t count) {
  const auto better = [&](int a, int b) {
    const float left = terms[static_cast<size_t>(a)];
    const float right = terms[static_cast<size_t>(b)];
    return left > right || (left == right && a < b);
  };
  const auto first = candidates.begin() + static_cast<ptrdiff_t>(begin);
  if (begin + count < candidates.size()) {
    std::nth_element(first, first + static_cast<ptrdiff_t>(count), candidates.end(), better);
    std::sort(first, first + static_cast<ptrdiff_t>(count), better);
  } else {
    std::sort(first, candidates.end(), better);
  }
}

// The whole distribution: walks token ids in order.
int draw_from_all(const SampleScratch& scratch, int vocab, double total, double u) {
  double target = u * total;
  int begin = 0;
  for (int chunk = 0; begin + kSumChunk < vocab; ++chunk, begin += kSumChunk) {
    const double sum = scratch.chunk_sums[static_cast<size_t>(chunk)];
    if (target < sum) break;
    target -= sum;
  }
  int last = 0;  // the sums were rounded differently: the walk may run past its chunk's or the vocabulary's end
  for (int i = begin; i < vocab; ++i) {
    const double term = static_cast<double>(scratch.terms[static_cast<size_t>(i)]);
    if (term <= 0.0) continue;
    last = i;
    if (target < term) return i;
    target -= term;
  }
  return last;
}

int draw_from_candidates(const std::vector<int>& candidates, const std::vector<float>& terms, double u) {
  double total = 0.0;
  for (int token : candidates) total += static_cast<double>(terms[static_cast<size_t>(token)]);
  double target = u * total;
  for (int token : candidates) {
    const double term = static_cast<double>(terms[static_cast<size_t>(token)]);
    if (target < term) return token;
    target -= term;
  }
  return candidates.back();
}

// Keeps the best tokens whose terms reach `share` of the candidates' total; sorts what it keeps.
void keep_top_p(SampleScratch& scratch, double share) {
  auto& candidates = scratch.candidates;
  const auto& terms = scratch.terms;
  double total = 0.0;
  for (int token : candidates) total += static_cast<double>(terms[static_cast<size_t>(token)]);
  const double enough = share * total;
  // What is dropped here sums to less than (1 - share) of the total, so the kept tokens still reach the share.
  const double floor = (1.0 - share) * total / static_cast<double>(candidates.size());
  std::erase_if(candidates, [&](int token) { return static_cast<double>(terms[static_cast<size_t>(token)]) < floor; });
  double mass = 0.0;
  size_t sorted = 0;
  for (size_t kept = 0; kept < candidates.size(); ++kept) {
    if (kept == sorted) {  // sort ever larger fronts: the share is mostly reached by a few tokens
      const size_t count = std::max<size_t>(64, sorted * 3);
      sort_front(candidates, terms, sorted, count);
      sorted = std::min(candidates.size(), sorted + count);
    }
    mass += static_cast<double>(terms[static_cast<size_t>(candidates[kept])]);
    if (mass >= enough) {
      candidates.resize(kept + 1);
      return;
    }
  }
  sort_front(candidates, terms, 0, candidates.size());
}

int draw(const Kernels& kernels, const float* logits, int vocab, const SampleParams& params, int best,
         SampleScratch& scratch) {
  kernels.exp_terms(logits, vocab, logits[best], 1.0f / params.temperature, scratch.terms.data(),
                    scratch.chunk_sums.data());
  const double u = uniform(params.seed, params.choice, params.position);
  const bool top_k = params.top_k > 0 && params.top_k < vocab;
  const bool top_p = params.top_p < 1.0f;
  const bool min_p = params.min_p > 0.0f;
  if (!top_k && !top_p && !min_p) return draw_from_all(scratch, vocab, total_of(scratch, vocab), u);

  auto& candidates = scratch.candidates;
  candidates.clear();
  for (int i = 0; i < vocab; ++i) {
    if (scratch.terms[static_cast<size_t>(i)] > 0.0f) candidates.push_back(i);
  }
  if (candidates.empty()) return best;
  if (top_k && static_cast<size_t>(params.top_k) < candidates.size()) {
    sort_front(candidates, scratch.terms, 0, static_cast<size_t>(params.top_k));
    candidates.resize(static_cast<size_t>(params.top_k));
  }
  if (top_p) keep_top_p(scratch, static_cast<double>(params.top_p));
  if (min_p) {  // the best token's term is 1
    std::erase_if(candidates, [&](int token) { return scratch.terms[static_cast<size_t>(token)] < params.min_p; });
  }
  return candidates.empty() ? best : draw_from_candidates(candidates, scratch.terms, u);
}

void find_top(const float* logits, int vocab, int count, int* tokens) {
  int found = 0;
  for (int i = 0; i < vocab; ++i) {
    if (found == count && !(logits[i] > logits[tokens[count - 1]])) continue;
    int at = found < count ? found++ : count - 1;
    for (; at > 0 && logits[i] > logits[tokens[at - 1]]; --at) tokens[at] = tokens[at - 1];
    tokens[at] = i;
  }
}

int choose(const Kernels& kernels, const float* logits, int vocab, const SampleParams& params, SampleScratch& scratch) {
  const int best = kernels.argmax(logits, vocab);
  // The inverse of a temperature below the smallest normal float would be infinite.
  const bool greedy = !(params.temperature >= std::numeric_limits<float>::min());
  return greedy ? best : draw(kernels, logits, vocab, params, best, scratch);
}

// Where a grammar allows few tokens, they are chosen among as if they were the vocabulary.
int choose_edited(const Kernels& kernels, const float* logits, int vocab, const SampleParams& params,
                  SampleScratch& scratch) {
  const LogitEdits& edits = *params.edits;
  float* edited = scratch.edited.data();
  if (changes_logits(edits)) {
    std::copy_n(logits, vocab, edited);
    edit_logits(edits, edited, vocab, scratch.counts.data());
    logits = edited;
  }
  if (edits.allowed == nullptr) return choose(kernels, logits, vocab, params, scratch);
  const int n = gather_allowed(edits, logits, vocab, static_cast<int>(scratch.allowed.size()), scratch.allowed.data(),
                               scratch.allowed_logits.data());
  if (n > 0) {
    const int index = n == 1 ? 0 : choose(kernels, scratch.allowed_logits.data(), n, params, scratch);
    return scratch.allowed[static_cast<size_t>(index)];
  }
  keep_allowed(edits, logits, vocab, edited);
  return choose(kernels, edited, vocab, params, scratch);
}

// The logarithm of the sum over all tokens' exponentials; overwrites the scratch's terms.
double log_total_of(const Kernels& kernels, const float* logits, int vocab, SampleScratch& scratch) {
  const float highest = logits[kernels.argmax(logits, vocab)];
  kernels.exp_terms(logits, vocab, highest, 1.0f, scratch.terms.data(), scratch.chunk_sums.data());
  return static_cast<double>(highest) + std::log(total_of(scratch, vocab));
}

// Of the raw logits.
void add_logprobs(const float* logits, int vocab, double log_total, int n_logprobs, Sample& sample) {
  const auto logprob = [&](int token) { return static_cast<float>(static_cast<double>(logits[token]) - log_total); };
  sample.logprob = logprob(sample.token);
  const int count = std::min(n_logprobs, std::min(kMaxLogprobs, vocab));
  if (count > 0) find_top(logits, vocab, count, sample.top_tokens);
  for (int i = 0; i < count; ++i) sample.top_logprobs[i] = logprob(sample.top_tokens[i]);
}

}  // namespace

void score(const Kernels& kernels, const float* logits, int vocab, int n, const int32_t* tokens,
           const int32_t* n_logprobs, SampleScratch& scratch, Sample* out) {
  const double log_total = log_total_of(kernels, logits, vocab, scratch);
  for (int i = 0; i < n; ++i) {
    out[i] = {};
    out[i].token = tokens[i];
    add_logprobs(logits, vocab, log_total, n_logprobs[i], out[i]);
  }
}

Sample sample(const Kernels& kernels, const float* logits, int vocab, const SampleParams& params,
              SampleScratch& scratch) {
  Sample result{};
  result.token = params.edits == nullptr ? choose(kernels, logits, vocab, params, scratch)
                                         : choose_edited(kernels, logits, vocab, params, scratch);
  if (params.n_logprobs >= 0) {
    add_logprobs(logits, vocab, log_total_of(kernels, logits, vocab, scratch), params.n_logprobs, result);
  }
  return result;
}

}  // namespace stoker
