//! The attributes of the Compose specification and the shapes of their values.

use super::schema::{Kind, Object, Shape};
use Kind::{Bool, Int, Null, Number, Text};
use Shape::{Any, Between, Is, List, Map, Named, Or, Set, Word};

const TEXT: Shape = Is(&[Text]);
const SWITCH: Shape = Is(&[Bool, Text]);
const WHOLE: Shape = Is(&[Int, Text]);
const AMOUNT: Shape = Is(&[Number, Text]);
const NAMES: Shape = Set(&TEXT);
const TEXTS: Shape = List(&TEXT);
const TEXT_OR_LIST: Shape = Or(&[TEXT, NAMES]);
const PAIRS: Shape = Or(&[Map(&Is(&[Text, Number, Bool, Null])), NAMES]);
const HOSTS: Shape = Or(&[Map(&Or(&[TEXT, TEXTS])), NAMES]);
const COMMAND: Shape = Or(&[Is(&[Null]), TEXT, TEXTS]);
const OPTIONS: Shape = Map(&AMOUNT);

const fn object(fields: &'static [(&'static str, Shape)]) -> Object {
    Object { fields, required: &[], open: true, nullable: false }
}

const fn closed(fields: &'static [(&'static str, Shape)]) -> Object {
    Object { open: false, ..object(fields) }
}

const fn needs(required: &'static [&'static str], object: Object) -> Object {
    Object { required, ..object }
}

const fn or_nothing(object: Object) -> Object {
    Object { nullable: true, ..object }
}

/// A whole file.
pub(super) static ROOT: Shape = Shape::Object(&object(&[
    ("version", TEXT),
    ("name", TEXT),
    (
        "include",
        List(&Or(&[
            TEXT,
            Shape::Object(&closed(&[
                ("path", TEXT_OR_LIST),
                ("env_file", TEXT_OR_LIST),
                ("project_directory", TEXT),
            ])),
        ])),
    ),
    ("services", Named(&SERVICE)),
    ("models", Named(&MODEL)),
    ("networks", Named(&NETWORK)),
    ("volumes", Named(&VOLUME)),
    ("secrets", Named(&SECRET)),
    ("configs", Named(&CONFIG)),
]));

const SERVICE: Shape = Shape::Object(&object(&[
    ("annotations", PAIRS),
    ("attach", SWITCH),
    ("blkio_config", BLKIO),
    ("build", Or(&[TEXT, BUILD])),
    ("cap_add", NAMES),
    ("cap_drop", NAMES),
    ("cgroup", Word(&["host", "private"])),
    ("cgroup_parent", TEXT),
    ("command", COMMAND),
    ("configs", FILES),
    ("container_name", TEXT),
    ("cpu_count", Between(0, i64::MAX)),
    ("cpu_percent", Or(&[Between(0, 100), AMOUNT])),
    ("cpu_period", AMOUNT),
    ("cpu_quota", AMOUNT),
    ("cpu_rt_period", AMOUNT),
    ("cpu_rt_runtime", AMOUNT),
    ("cpu_shares", AMOUNT),
    ("cpus", AMOUNT),
    ("cpuset", TEXT),
    (
        "credential_spec",
        Shape::Object(&object(&[("config", TEXT), ("file", TEXT), ("registry", TEXT)])),
    ),
    ("depends_on", Or(&[NAMES, Named(&DEPENDENCY)])),
    ("deploy", DEPLOY),
    ("develop", DEVELOP),
    ("device_cgroup_rules", NAMES),
    (
        "devices",
        List(&Or(&[
            TEXT,
            Shape::Object(&needs(
                &["source"],
                object(&[("source", TEXT), ("target", TEXT), ("permissions", TEXT)]),
            )),
        ])),
    ),
    ("dns", TEXT_OR_LIST),
    ("dns_opt", NAMES),
    ("dns_search", TEXT_OR_LIST),
    ("domainname", TEXT),
    ("entrypoint", COMMAND),
    (
        "env_file",
        Or(&[
            TEXT,
            List(&Or(&[
                TEXT,
                Shape::Object(&needs(
                    &["path"],
                    closed(&[("path", TEXT), ("format", TEXT), ("required", SWITCH)]),
                )),
            ])),
        ]),
    ),
    ("environment", PAIRS),
    ("expose", Set(&AMOUNT)),
    (
        "extends",
        Or(&[
            TEXT,
            Shape::Object(&needs(&["service"], closed(&[("service", TEXT), ("file", TEXT)]))),
        ]),
    ),
    ("external_links", NAMES),
    ("extra_hosts", HOSTS),
    ("gpus", Or(&[Word(&["all"]), List(&DEVICE)])),
    ("group_add", Set(&AMOUNT)),
    ("healthcheck", HEALTH),
    ("hostname", TEXT),
    ("image", TEXT),
    ("init", SWITCH),
    ("ipc", TEXT),
    ("isolation", TEXT),
    ("label_file", Or(&[TEXT, TEXTS])),
    ("labels", PAIRS),
    ("links", NAMES),
    (
        "logging",
        Shape::Object(&object(&[("driver", TEXT), ("options", Map(&Is(&[Text, Number, Null])))])),
    ),
    ("mac_address", TEXT),
    ("mem_limit", AMOUNT),
    ("mem_reservation", WHOLE),
    ("mem_swappiness", WHOLE),
    ("memswap_limit", AMOUNT),
    (
        "models",
        Or(&[
            NAMES,
            Named(&Shape::Object(&or_nothing(object(&[
                ("endpoint_var", TEXT),
                ("model_var", TEXT),
            ])))),
        ]),
    ),
    ("network_mode", TEXT),
    ("networks", Or(&[NAMES, Named(&ENDPOINT)])),
    ("oom_kill_disable", SWITCH),
    ("oom_score_adj", Between(-1000, 1000)),
    ("pid", Is(&[Text, Null])),
    ("pids_limit", AMOUNT),
    ("platform", TEXT),
    ("ports", Set(&Or(&[Is(&[Number]), TEXT, PORT]))),
    ("post_start", List(&HOOK)),
    ("pre_stop", List(&HOOK)),
    ("privileged", SWITCH),
    ("profiles", NAMES),
    (
        "provider",
        Shape::Object(&needs(
            &["type"],
            object(&[("type", TEXT), ("options", Map(&Or(&[SCALAR, List(&SCALAR)])))]),
        )),
    ),
    ("pull_policy", TEXT),
    ("pull_refresh_after", TEXT),
    ("read_only", SWITCH),
    ("restart", TEXT),
    ("runtime", TEXT),
    ("scale", WHOLE),
    ("secrets", FILES),
    ("security_opt", NAMES),
    ("shm_size", AMOUNT),
    ("stdin_open", SWITCH),
    ("stop_grace_period", TEXT),
    ("stop_signal", TEXT),
    ("storage_opt", Map(&Any)),
    ("sysctls", PAIRS),
    ("tmpfs", TEXT_OR_LIST),
    ("tty", SWITCH),
    ("ulimits", ULIMITS),
    ("use_api_socket", Is(&[Bool])),
    ("user", TEXT),
    ("userns_mode", TEXT),
    ("uts", TEXT),
    ("volumes", Set(&Or(&[TEXT, MOUNT]))),
    ("volumes_from", NAMES),
    ("working_dir", TEXT),
]));

const SCALAR: Shape = Is(&[Text, Number, Bool]);

const BUILD: Shape = Shape::Object(&object(&[
    ("additional_contexts", PAIRS),
    ("args", PAIRS),
    ("cache_from", TEXTS),
    ("cache_to", TEXTS),
    ("context", TEXT),
    ("dockerfile", TEXT),
    ("dockerfile_inline", TEXT),
    ("entitlements", TEXTS),
    ("extra_hosts", HOSTS),
    ("isolation", TEXT),
    ("labels", PAIRS),
    ("network", TEXT),
    ("no_cache", SWITCH),
    ("platforms", TEXTS),
    ("privileged", SWITCH),
    ("provenance", SWITCH),
    ("pull", SWITCH),
    ("sbom", SWITCH),
    ("secrets", FILES),
    ("shm_size", WHOLE),
    ("ssh", PAIRS),
    ("tags", TEXTS),
    ("target", TEXT),
    ("ulimits", ULIMITS),
]));

const BLKIO: Shape = Shape::Object(&closed(&[
    ("device_read_bps", List(&RATE)),
    ("device_read_iops", List(&RATE)),
    ("device_write_bps", List(&RATE)),
    ("device_write_iops", List(&RATE)),
    ("weight", WHOLE),
    ("weight_device", List(&Shape::Object(&closed(&[("path", TEXT), ("weight", WHOLE)])))),
]));

const RATE: Shape = Shape::Object(&closed(&[("path", TEXT), ("rate", WHOLE)]));

const DEPENDENCY: Shape = Shape::Object(&needs(
    &["condition"],
    object(&[
        ("restart", SWITCH),
        ("required", Is(&[Bool])),
        (
            "condition",
            Word(&["service_started", "service_healthy", "service_completed_successfully"]),
        ),
    ]),
));

const ENDPOINT: Shape = Shape::Object(&or_nothing(object(&[
    ("aliases", NAMES),
    ("interface_name", TEXT),
    ("ipv4_address", TEXT),
    ("ipv6_address", TEXT),
    ("link_local_ips", NAMES),
    ("mac_address", TEXT),
    ("driver_opts", OPTIONS),
    ("priority", Is(&[Number])),
    ("gw_priority", Is(&[Number])),
])));

const PORT: Shape = Shape::Object(&object(&[
    ("name", TEXT),
    ("mode", TEXT),
    ("host_ip", TEXT),
    ("target", WHOLE),
    ("published", WHOLE),
    ("protocol", TEXT),
    ("app_protocol", TEXT),
]));

const MOUNT: Shape = Shape::Object(&needs(
    &["type"],
    object(&[
        ("type", Word(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"])),
        ("source", TEXT),
        ("target", TEXT),
        ("read_only", SWITCH),
        ("consistency", TEXT),
        (
            "bind",
            Shape::Object(&object(&[
                ("propagation", TEXT),
                ("create_host_path", SWITCH),
                ("recursive", Word(&["enabled", "disabled", "writable", "readonly"])),
                ("selinux", Word(&["z", "Z"])),
            ])),
        ),
        (
            "volume",
            Shape::Object(&object(&[("labels", PAIRS), ("nocopy", SWITCH), ("subpath", TEXT)])),
        ),
        ("tmpfs", Shape::Object(&object(&[("size", Between(0, i64::MAX)), ("mode", AMOUNT)]))),
        ("image", Shape::Object(&object(&[("subpath", TEXT)]))),
    ]),
));

const FILES: Shape = List(&Or(&[
    TEXT,
    Shape::Object(&object(&[
        ("source", TEXT),
        ("target", TEXT),
        ("uid", TEXT),
        ("gid", TEXT),
        ("mode", AMOUNT),
    ])),
]));

const ULIMITS: Shape = Map(&Or(&[
    WHOLE,
    Shape::Object(&needs(&["soft", "hard"], object(&[("hard", WHOLE), ("soft", WHOLE)]))),
]));

const HEALTH: Shape = Shape::Object(&object(&[
    ("disable", SWITCH),
    ("interval", TEXT),
    ("retries", AMOUNT),
    ("test", Or(&[TEXT, TEXTS])),
    ("timeout", TEXT),
    ("start_period", TEXT),
    ("start_interval", TEXT),
]));

const HOOK: Shape = Shape::Object(&needs(
    &["command"],
    object(&[
        ("command", COMMAND),
        ("user", TEXT),
        ("privileged", SWITCH),
        ("working_dir", TEXT),
        ("environment", PAIRS),
    ]),
));

const DEVELOP: Shape = Shape::Object(&or_nothing(object(&[(
    "watch",
    List(&Shape::Object(&needs(
        &["path", "action"],
        object(&[
            ("ignore", TEXT_OR_LIST),
            ("include", TEXT_OR_LIST),
            ("path", TEXT),
            ("action", Word(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"])),
            ("target", TEXT),
            ("exec", HOOK),
            ("initial_sync", Is(&[Bool])),
        ]),
    ))),
)])));

const UPDATE: Shape = Shape::Object(&object(&[
    ("parallelism", WHOLE),
    ("delay", TEXT),
    ("failure_action", TEXT),
    ("monitor", TEXT),
    ("max_failure_ratio", AMOUNT),
    ("order", Word(&["start-first", "stop-first"])),
]));

const DEPLOY: Shape = Shape::Object(&or_nothing(object(&[
    ("mode", TEXT),
    ("endpoint_mode", TEXT),
    ("replicas", WHOLE),
    ("labels", PAIRS),
    ("rollback_config", UPDATE),
    ("update_config", UPDATE),
    (
        "resources",
        Shape::Object(&object(&[
            (
                "limits",
                Shape::Object(&object(&[("cpus", AMOUNT), ("memory", TEXT), ("pids", WHOLE)])),
            ),
            (
                "reservations",
                Shape::Object(&object(&[
                    ("cpus", AMOUNT),
                    ("memory", TEXT),
                    ("generic_resources", GENERIC),
                    ("devices", List(&NEEDED_DEVICE)),
                ])),
            ),
        ])),
    ),
    (
        "restart_policy",
        Shape::Object(&object(&[
            ("condition", TEXT),
            ("delay", TEXT),
            ("max_attempts", WHOLE),
            ("window", TEXT),
        ])),
    ),
    (
        "placement",
        Shape::Object(&object(&[
            ("constraints", TEXTS),
            ("preferences", List(&Shape::Object(&object(&[("spread", TEXT)])))),
            ("max_replicas_per_node", WHOLE),
        ])),
    ),
])));

const GENERIC: Shape = List(&Shape::Object(&object(&[(
    "discrete_resource_spec",
    Shape::Object(&object(&[("kind", TEXT), ("value", AMOUNT)])),
)])));

const DEVICE_FIELDS: &[(&str, Shape)] = &[
    ("capabilities", NAMES),
    ("count", WHOLE),
    ("device_ids", NAMES),
    ("driver", TEXT),
    ("options", PAIRS),
];

const DEVICE: Shape = Shape::Object(&object(DEVICE_FIELDS));

const NEEDED_DEVICE: Shape = Shape::Object(&needs(&["capabilities"], object(DEVICE_FIELDS)));

const EXTERNAL: Shape = Or(&[SWITCH, Shape::Object(&object(&[("name", TEXT)]))]);

const NETWORK: Shape = Shape::Object(&or_nothing(object(&[
    ("name", TEXT),
    ("driver", TEXT),
    ("driver_opts", OPTIONS),
    (
        "ipam",
        Shape::Object(&object(&[
            ("driver", TEXT),
            (
                "config",
                List(&Shape::Object(&object(&[
                    ("subnet", TEXT),
                    ("ip_range", TEXT),
                    ("gateway", TEXT),
                    ("aux_addresses", Map(&TEXT)),
                ]))),
            ),
            ("options", Map(&TEXT)),
        ])),
    ),
    ("external", EXTERNAL),
    ("internal", SWITCH),
    ("enable_ipv4", SWITCH),
    ("enable_ipv6", SWITCH),
    ("attachable", SWITCH),
    ("labels", PAIRS),
])));

const VOLUME: Shape = Shape::Object(&or_nothing(object(&[
    ("name", TEXT),
    ("driver", TEXT),
    ("driver_opts", OPTIONS),
    ("external", EXTERNAL),
    ("labels", PAIRS),
])));

const SECRET: Shape = Shape::Object(&object(&[
    ("name", TEXT),
    ("environment", TEXT),
    ("file", TEXT),
    ("external", EXTERNAL),
    ("labels", PAIRS),
    ("driver", TEXT),
    ("driver_opts", OPTIONS),
    ("template_driver", TEXT),
]));

const CONFIG: Shape = Shape::Object(&object(&[
    ("name", TEXT),
    ("content", TEXT),
    ("environment", TEXT),
    ("file", TEXT),
    ("external", EXTERNAL),
    ("labels", PAIRS),
    ("template_driver", TEXT),
]));

const MODEL: Shape = Shape::Object(&needs(
    &["model"],
    object(&[
        ("name", TEXT),
        ("model", TEXT),
        ("context_size", Is(&[Int])),
        ("runtime_flags", TEXTS),
    ]),
));
