#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "adapter.h"
#include "bindings.h"

namespace nb = nanobind;

namespace stoker {

namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

int dimension(size_t size) {
  if (size > static_cast<size_t>(1) << 30) throw std::invalid_argument("a matrix is too large");
  return static_cast<int>(size);
}

}  // namespace

void bind_adapters(nb::module_& m) {
  nb::class_<Adapter>(m, "Adapter")
      .def(nb::init<int, bool>(), nb::kw_only(), nb::arg("n_layers"), nb::arg("float_path"))
      .def(
          "set",
          [](Adapter& self, const std::string& name, int layer, Rows down, Rows up, float scale) {
            if (up.shape(1) != down.shape(0)) throw std::invalid_argument("both matrices must have one rank");
            const nb::gil_scoped_release release;
            self.set(name, layer, down.data(), up.data(), dimension(down.shape(0)), dimension(down.shape(1)),
                     dimension(up.shape(0)), scale);
          },
          nb::arg("name"), nb::arg("layer"), nb::arg("down"), nb::arg("up"), nb::arg("scale"))
      .def(
          "set_bottleneck",
          [](Adapter& self, const std::string& half, int layer, Rows down, Floats bias, Rows up, Floats up_bias,
             float scale, const std::string& bend, bool of_stream) {
            if (up.shape(1) != down.shape(0) || bias.shape(0) != down.shape(0)) {
              throw std::invalid_argument("both matrices and the bias between them must have one size");
            }
            if (up.shape(0) != down.shape(1) || up_bias.shape(0) != up.shape(0)) {
              throw std::invalid_argument("a bottleneck must have as many outputs as inputs");
            }
            const nb::gil_scoped_release release;
            self.set_bottleneck(half, layer, down.data(), bias.data(), up.data(), up_bias.data(),
                                dimension(down.shape(0)), dimension(down.shape(1)), scale, bend, of_stream);
          },
          nb::arg("half"), nb::arg("layer"), nb::arg("down"), nb::arg("bias"), nb::arg("up"), nb::arg("up_bias"),
          nb::kw_only(), nb::arg("scale"), nb::arg("bend"), nb::arg("of_stream"))
      .def_prop_ro("max_rank", &Adapter::max_rank)
      .def_prop_ro("nbytes", &Adapter::bytes);
}

}  // namespace stoker
