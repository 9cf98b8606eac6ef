/// The self-test of edit.onnx: run it before you trust a build of ONNX Runtime.
#pragma once
#include "graph.hpp"
#include <algorithm>
#include <functional>
#include <numeric>
#include <openssl/evp.h>

std::string from_base64(const std::string& text) {
    std::string bytes(text.size() / 4 * 3, '\0');
    const auto* source = reinterpret_cast<const unsigned char*>(text.data());
    auto* target = reinterpret_cast<unsigned char*>(bytes.data());
    if (EVP_DecodeBlock(target, source, static_cast<int>(text.size())) != static_cast<int>(bytes.size()))
        throw std::runtime_error("selftest.json: its base64 is damaged");
    return bytes.substr(0, bytes.size() - std::count(text.begin(), text.end(), '='));
}

std::string sha256(const std::string& bytes) {
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (!EVP_Digest(bytes.data(), bytes.size(), hash, &size, EVP_sha256(), nullptr))
        throw std::runtime_error("sha256 failed");
    std::string text;
    for (unsigned int i = 0; i < size; ++i) {
        text += "0123456789abcdef"[hash[i] >> 4];
        text += "0123456789abcdef"[hash[i] & 15];
    }
    return text;
}

/// Make the edits of selftest.json. Throws where noise or arithmetic are wrong: then this build must not be used.
/// Returns how many bytes of the whole edit differ: 0 where the network is rounded as it was for the Editor.
int self_test(Ort::Session& session, const Json& test) {
    const auto run = [&](const Json& wanted) {
        Json settings = test;  // t0, steps, seed and sampler; entries that are no inputs do no harm
        settings["keep"] = wanted["keep"];
        return run_edit(session, test["inputs"], from_base64(test["guide"]), test["shape"], wanted["mask"], settings);
    };
    const Json &kept = test["cases"]["kept"], &edited = test["cases"]["edited"];
    if (sha256(bytes_of<float>(run(kept)[1])) != kept["state_sha256"])
        throw std::runtime_error("self-test: this build computes other noise");
    const std::string found = bytes_of<std::uint8_t>(run(edited)[0]), right = from_base64(edited["result"]);
    return std::inner_product(found.begin(), found.end(), right.begin(), 0, std::plus<>(), std::not_equal_to<>());
}
