"""What others script against: the JSON of mode, plugin and doctor."""

import hashlib

SHIPPED = {"eagle", "medusa"}


def test_plugins_are_listed_with_their_files(outrider, program):
    plugins = {plugin["name"]: plugin for plugin in outrider("plugin", "list", "--json").json()}
    assert set(plugins) >= SHIPPED
    for name in SHIPPED:
        plugin = plugins[name]
        assert plugin["usable"] is True and plugin["modes"] == [name]
        assert plugin["version"] == "0.1.0" and plugin["torch"] == "2.11.0"
        path = program.resolve().parents[1] / f"lib/outrider/plugins/{name}.outrider.so"
        assert plugin["path"] == str(path)
        assert plugin["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert outrider("plugin", "show", "eagle", "--json").json() == [plugins["eagle"]]


def test_modes_are_listed_with_their_plugin(outrider):
    modes = {mode["mode"]: mode for mode in outrider("mode", "list", "--json").json()}
    for name in SHIPPED:
        assert modes[name] == {"mode": name, "plugin": name, "usable": True, "version": "0.1.0"}


def test_a_mode_shows_its_schema(outrider):
    shown = outrider("mode", "show", "medusa", "--json").json()
    assert shown["name"] == "medusa" and shown["config_version"] == 1
    schema = outrider("mode", "show", "medusa", "--schema").json()
    assert shown["config_schema"] == schema
    assert schema["additionalProperties"] is False
    fields = schema["properties"]
    assert {name: field["default"] for name, field in fields.items()} == {
        "medusa_num_heads": 2, "medusa_num_layers": 1, "medusa_freeze_base_model": True,
        "medusa_heads_coefficient": 0.2, "medusa_decay_coefficient": 0.8}
    extensions = {name for name, field in fields.items() if field.get("x-outrider-extension")}
    assert extensions == set(fields) - {"medusa_num_heads", "medusa_num_layers"}
    assert all(field["description"] for field in fields.values())


def test_every_preset_is_a_config_of_its_mode(outrider):
    for mode, wanted in (("eagle", {"eagle3", "EAGLE1_DEFAULT_CFG", "EAGLE3_DEFAULT_CFG",
                                    "EAGLE_MTP_DEFAULT_CFG"}), ("medusa", {"medusa"})):
        fields = outrider("mode", "show", mode, "--schema").json()["properties"]
        presets = outrider("mode", "show", mode, "--presets", "--json").json()
        assert {preset["name"] for preset in presets} >= wanted
        for preset in presets:
            assert set(preset["overrides"]) <= set(fields)


def test_doctor_finds_the_plugins_and_nothing_wrong(outrider):
    report = outrider("doctor", "--json").json()
    assert report["libtorch"] == "2.11.0" and report["warnings"] == []
    found = {plugin["name"]: plugin["problem"] for plugin in report["plugins"]}
    assert {name: found[name] for name in SHIPPED} == dict.fromkeys(SHIPPED, "")
    assert f"outrider {report['outrider']}" == outrider("--version").stdout.strip()
