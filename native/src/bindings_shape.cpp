// The shape of a model as Python says it. What the numbers may be is checked when a model is made of them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <utility>

#include "bindings.h"
#include "shape.h"

namespace nb = nanobind;

namespace stoker {

void bind_shape(nb::module_& m) {
  nb::class_<RotaryShape>(m, "Rotary")
      .def(
          "__init__",
          [](RotaryShape* self, std::vector<float> frequencies, float magnitude) {
            new (self) RotaryShape{std::move(frequencies), magnitude};
          },
          nb::arg("frequencies"), nb::arg("magnitude"));
  nb::class_<ExpertsShape>(m, "Experts")
      .def(
          "__init__",
          [](ExpertsShape* self, int n_experts, int n_used, bool normalized, bool biases) {
            new (self) ExpertsShape{n_experts, n_used, normalized, biases};
          },
          nb::kw_only(), nb::arg("n_experts"), nb::arg("n_used"), nb::arg("normalized"), nb::arg("biases"));
  nb::class_<ModelShape>(m, "ModelShape")
      .def(
          "__init__",
          [](ModelShape* self, const std::vector<std::pair<int, int>>& layers, int width, int n_heads, int n_kv_heads,
             int head_size, int ffn_width, int vocab_size, int context_length, std::vector<RotaryShape> rotaries,
             float norm_epsilon, bool tied_embeddings, const std::string& activation, bool pre_norms, bool post_norms,
             const std::string& qk_norm, bool qkv_bias, bool attention_output_bias, bool sinks, float score_scale,
             float score_softcap, float logit_softcap, float embedding_scale, float residual_scale, float logit_scale,
             std::optional<ExpertsShape> experts) {
            ModelShape shape{.layers = {},
                             .width = width,
                             .n_heads = n_heads,
                             .n_kv_heads = n_kv_heads,
                             .head_size = head_size,
                             .ffn_width = ffn_width,
                             .vocab_size = vocab_size,
                             .context_length = context_length,
                             .rotaries = std::move(rotaries),
                             .norm_epsilon = norm_epsilon,
                             .tied_embeddings = tied_embeddings,
                             .activation = activation_named(activation),
                             .pre_norms = pre_norms,
                             .post_norms = post_norms,
                             .qk_norm = qk_norm_named(qk_norm),
                             .qkv_bias = qkv_bias,
                             .attention_output_bias = attention_output_bias,
                             .sinks = sinks,
                             .score_scale = score_scale,
                             .score_softcap = score_softcap,
                             .logit_softcap = logit_softcap,
                             .embedding_scale = embedding_scale,
                             .residual_scale = residual_scale,
                             .logit_scale = logit_scale,
                             .experts = experts};
            for (const auto& [window, rotary] : layers) shape.layers.push_back({window, rotary});
            new (self) ModelShape(std::move(shape));
          },
          nb::kw_only(), nb::arg("layers"), nb::arg("width"), nb::arg("n_heads"), nb::arg("n_kv_heads"),
          nb::arg("head_size"), nb::arg("ffn_width"), nb::arg("vocab_size"), nb::arg("context_length"),
          nb::arg("rotaries"), nb::arg("norm_epsilon"), nb::arg("tied_embeddings"), nb::arg("activation"),
          nb::arg("pre_norms"), nb::arg("post_norms"), nb::arg("qk_norm"), nb::arg("qkv_bias"),
          nb::arg("attention_output_bias"), nb::arg("sinks"), nb::arg("score_scale"), nb::arg("score_softcap"),
          nb::arg("logit_softcap"), nb::arg("embedding_scale"), nb::arg("residual_scale"), nb::arg("logit_scale"),
          nb::arg("experts").none());
}

}  // namespace stoker
