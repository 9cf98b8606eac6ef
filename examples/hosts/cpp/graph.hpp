/// edit.onnx in ONNX Runtime's C++ API.
#pragma once
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>

using Json = nlohmann::json;
using Shape = std::vector<std::int64_t>;

/// A tensor that owns a copy of `data`.
template <class T> Ort::Value tensor(const Shape& shape, const void* data) {
    auto value = Ort::Value::CreateTensor<T>(Ort::AllocatorWithDefaultOptions(), shape.data(), shape.size());
    const auto count = value.GetTensorTypeAndShapeInfo().GetElementCount();
    std::memcpy(value.template GetTensorMutableData<T>(), data, count * sizeof(T));
    return value;
}

/// A scalar from a number of JSON or from decimal text. JSON's numbers are exact up to 2^53 only: give a seed as text.
template <class T> Ort::Value scalar(const std::string& name, const Json& number) {
    const std::string text = number.is_string() ? number.get<std::string>() : number.dump();
    const char* last = text.data() + text.size();
    T value{};
    const auto [end, error] = std::from_chars(text.data(), last, value);
    if (error != std::errc() || end != last) throw std::runtime_error(name + " does not take " + text);
    return tensor<T>({}, &value);
}

Ort::Value scalar(const std::string& dtype, const std::string& name, const Json& number) {
    if (dtype == "float64") return scalar<double>(name, number);
    if (dtype == "float32") return scalar<float>(name, number);
    if (dtype == "uint64") return scalar<std::uint64_t>(name, number);
    return scalar<std::int64_t>(name, number);
}

/// The outputs `result` and `state`. inputs: those of selftest.json. guide: bytes of `shape` [height, width, channels].
/// shade: the mask's value for all pixels. settings: scalars by name; those not given have their defaults.
std::vector<Ort::Value> run_edit(Ort::Session& session, const Json& inputs, const std::string& guide,
                                 const Shape& shape, int shade, const Json& settings) {
    const std::string mask(shape[0] * shape[1], static_cast<char>(shade));
    std::vector<const char*> names{"guide", "mask"};
    std::vector<Ort::Value> feeds;
    feeds.push_back(tensor<std::uint8_t>(shape, guide.data()));
    feeds.push_back(tensor<std::uint8_t>({shape[0], shape[1]}, mask.data()));
    for (auto input = inputs.begin(); input != inputs.end(); ++input) {
        names.push_back(input.key().c_str());
        feeds.push_back(scalar((*input)["dtype"], input.key(), settings.value(input.key(), (*input)["default"])));
    }
    const char* outputs[] = {"result", "state"};
    return session.Run({}, names.data(), feeds.data(), feeds.size(), outputs, 2);
}

/// The bytes of a tensor of T.
template <class T> std::string bytes_of(const Ort::Value& value) {
    const auto count = value.GetTensorTypeAndShapeInfo().GetElementCount();
    return {reinterpret_cast<const char*>(value.GetTensorData<T>()), count * sizeof(T)};
}
