// The Python module outrider._C: bases that live in Python, and the drafts attached to them. The
// tensors of a draft are Python's: see bound_tensors.h.

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <string>

#include "attached.h"
#include "external_model.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/host/plugin_loader.h"
#include "outrider/version.h"
#include "registry.h"

namespace outrider::python {
namespace {

namespace py = pybind11;

/// outrider.OutriderError(message, code, hint) from the package's Python part.
void raise(const Error& error) {
  const auto type = py::module_::import("outrider.errors").attr("OutriderError");
  const auto value = type(error.what(), std::string(error_code_name(error.code())), error.hint());
  PyErr_SetObject(type.ptr(), value.ptr());
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    raise(error);
  }
}

void define_attached(py::module_& module) {
  py::class_<Attached>(module, "Attached")
      .def("copy", &Attached::copy, py::arg("stored_bytes"))
      .def_property_readonly("mode", &Attached::mode)
      .def_property_readonly("attribute", &Attached::attribute)
      .def_property_readonly("freezes_base", &Attached::freezes_base)
      .def_property_readonly("drops_layers", &Attached::drops_layers)
      .def_property_readonly("labels_stand_alone", &Attached::labels_stand_alone)
      .def("request", &Attached::request)
      .def("tensors", &Attached::tensors)
      .def("release", &Attached::release)
      .def("bind", &Attached::bind, py::arg("tensors"))
      .def("loss", &Attached::loss, py::arg("base"), py::arg("batch"), py::arg("training"));
}

void define_model(py::module_& module) {
  py::class_<ExternalModel>(module, "ExternalModel")
      .def(py::init<const std::string&, const std::string&, py::object, at::Device,
                    at::ScalarType>(),
           py::arg("config"), py::arg("origin"), py::arg("owner"), py::arg("device"),
           py::arg("dtype"))
      .def("convert", &ExternalModel::convert, py::arg("mode"), py::arg("seed"),
           py::arg("reference_numerics"), py::arg("draft_vocabulary"))
      .def("rebuild", &ExternalModel::rebuild, py::arg("record"), py::arg("origin"),
           py::arg("stored_bytes"))
      .def("drafts", &ExternalModel::drafts)
      .def("record", &ExternalModel::record);
}

void define_record(py::module_& module) {
  py::class_<CheckpointMetadata>(module, "Record")
      .def_static("parse",
                  [](const std::string& text, const std::string& origin) {
                    return CheckpointMetadata::from_json(Json::parse(text), origin);
                  })
      .def("json", [](const CheckpointMetadata& record) { return record.to_json().dump(); });
  module.def(
      "read_record",
      [](const std::string& folder, const std::optional<std::string>& numerics) {
        return read_metadata(folder, numerics);
      },
      py::arg("folder"), py::arg("reference_numerics"));
  module.def(
      "write_record",
      [](const CheckpointMetadata& record, const std::string& folder) {
        write_record(record, folder);
      },
      py::arg("record"), py::arg("folder"));
}

void define_outputs(py::module_& module) {
  py::class_<PassOutputs>(module, "PassOutputs")
      .def(py::init<>())
      .def_readwrite("input_embeddings", &PassOutputs::input_embeddings)
      .def_readwrite("layer_outputs", &PassOutputs::layer_outputs)
      .def_readwrite("last_hidden", &PassOutputs::last_hidden)
      .def_readwrite("last_hidden_prenorm", &PassOutputs::last_hidden_prenorm)
      .def_readwrite("embedding_weight", &PassOutputs::embedding_weight)
      .def_readwrite("head_weight", &PassOutputs::head_weight)
      .def_readwrite("carries_gradient", &PassOutputs::carries_gradient);
  py::class_<Batch>(module, "Batch")
      .def(py::init<>())
      .def_readwrite("input_ids", &Batch::input_ids)
      .def_readwrite("attention_mask", &Batch::attention_mask)
      .def_readwrite("position_ids", &Batch::position_ids)
      .def_readwrite("loss_mask", &Batch::loss_mask)
      .def_readwrite("labels", &Batch::labels)
      .def_readwrite("extras", &Batch::extras);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  py::register_exception_translator(&translate);
  module.attr("__version__") = version();
  define_record(module);
  define_outputs(module);
  define_attached(module);
  define_model(module);
  module.def("language_model_loss", &lm_loss, py::arg("base"), py::arg("batch"),
             py::arg("labels_stand_alone"));
  module.def("save_file", &save_file, py::arg("record"), py::arg("tensors"), py::arg("file"));
  module.def("read_stored", &read_stored, py::arg("path"), py::arg("reference_numerics"));
  module.def("modes", &mode_names);
  module.def("describe_mode", &describe_mode, py::arg("name"));
  module.def("resolve_config", &resolve_config, py::arg("mode"), py::arg("config"));
  module.def("plugins", &list_plugins);
  module.def("native_architectures", &native_architectures);
  module.def("expected_acceptance_length", &expected_acceptance_length, py::arg("accuracies"));
}

}  // namespace outrider::python
