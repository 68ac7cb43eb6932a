//! The API server and its loops in this process: what becomes of objects that nobody but a loop touches.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod cluster;

use cluster::Cluster;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_what_each_has_and_ends_empty() {
    let c = Cluster::start().await;
    c.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    c.until("/api/v1/namespaces/n/serviceaccounts/default", |_| true).await;
    let root = "/api/v1/namespaces/n/configmaps/kube-root-ca.crt";
    c.until(root, |o| o["data"]["ca.crt"] == "root").await;
    c.send("PATCH", root, json!({"data": {"ca.crt": "mine"}})).await;
    c.until(root, |o| o["data"]["ca.crt"] == "root").await;
    c.send("DELETE", "/api/v1/namespaces/n/serviceaccounts/default", Value::Null).await;
    c.until("/api/v1/namespaces/n/serviceaccounts/default", |_| true).await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/wait"]}});
    c.create("/api/v1/namespaces/n/configmaps", held).await;
    c.send("DELETE", "/api/v1/namespaces/n", Value::Null).await;
    let told = |o: &Value| {
        let text = o["status"]["conditions"].to_string();
        text.contains("configmaps. has 1 resource instances")
            && text.contains("example.com/wait in 1 resource instances")
    };
    c.until("/api/v1/namespaces/n", told).await;
    let free = json!({"metadata": {"finalizers": null}});
    c.send("PATCH", "/api/v1/namespaces/n/configmaps/held", free).await;
    c.gone("/api/v1/namespaces/n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_owned_goes_with_its_owner_or_stays_as_asked() {
    let c = Cluster::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    for (policy, stays) in [("Background", false), ("Foreground", false), ("Orphan", true)] {
        let owner = c.create(all, json!({"metadata": {"name": "owner"}})).await;
        let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
            "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true}]);
        c.create(all, json!({"metadata": {"name": "owned", "ownerReferences": reference}})).await;
        let owner = format!("{all}/owner?propagationPolicy={policy}");
        c.send("DELETE", &owner, Value::Null).await;
        c.gone(&format!("{all}/owner")).await;
        let owned = format!("{all}/owned");
        if stays {
            c.until(&owned, |o| o["metadata"].get("ownerReferences").is_none()).await;
        } else {
            c.gone(&owned).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_take_in_the_rules_of_others() {
    let c = Cluster::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let label = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
    let rule = json!({"apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"]});
    c.create(roles, json!({"metadata": {"name": "things", "labels": label}, "rules": [rule]}))
        .await;
    for name in ["view", "edit", "admin"] {
        let has = |o: &Value| o["rules"].as_array().unwrap().contains(&rule);
        c.until(&format!("{roles}/{name}"), has).await;
    }
    c.send("DELETE", &format!("{roles}/things"), Value::Null).await;
    let lacks = |o: &Value| !o["rules"].as_array().unwrap().contains(&rule);
    c.until(&format!("{roles}/admin"), lacks).await;
}

fn pod(name: &str, cpu: &str) -> Value {
    let resources = json!({"requests": {"cpu": cpu}});
    json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_bound_what_a_namespace_holds() {
    let c = Cluster::start().await;
    c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
    let quota = json!({"metadata": {"name": "q"},
        "spec": {"hard": {"pods": "2", "requests.cpu": "1", "count/configmaps": "3"}}});
    c.create("/api/v1/namespaces/default/resourcequotas", quota).await;
    let path = "/api/v1/namespaces/default/resourcequotas/q";
    let used = |pods: &str, cpu: &str, configs: &str| {
        let used = json!({"count/configmaps": configs, "pods": pods, "requests.cpu": cpu});
        move |o: &Value| o["status"]["used"] == used
    };
    c.until(path, used("0", "0", "1")).await;
    let pods = "/api/v1/namespaces/default/pods";
    c.create(pods, pod("a", "600m")).await;
    let (_, now) = c.send("GET", path, Value::Null).await;
    assert!(used("1", "600m", "1")(&now), "charged with the pod: {now}");
    let (status, answer) = c.send("POST", pods, pod("b", "600m")).await;
    assert_eq!(
        (status, answer["message"].as_str().unwrap()),
        (
            403,
            "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
        )
    );
    let mut silent = pod("b", "1");
    silent["spec"]["containers"][0]["resources"] = json!({});
    let (_, answer) = c.send("POST", pods, silent).await;
    let expected = "pods \"b\" is forbidden: failed quota: q: must specify requests.cpu for: c";
    assert_eq!(answer["message"], expected);
    // Many at once: no more than there is room for.
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    let tries = names.iter().map(|n| {
        c.send("POST", "/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": n}}))
    });
    let made = futures_util::future::join_all(tries).await;
    assert_eq!(made.iter().filter(|(status, _)| *status == 201).count(), 2);
    c.send("DELETE", &format!("{pods}/a?gracePeriodSeconds=0"), Value::Null).await;
    c.until(path, used("0", "0", "3")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_ranges_fill_in_and_refuse() {
    let c = Cluster::start().await;
    c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
    let limits = json!([{"type": "Container", "default": {"cpu": "500m"}, "max": {"cpu": "1"}}]);
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": limits}});
    c.create("/api/v1/namespaces/default/limitranges", range).await;
    let pods = "/api/v1/namespaces/default/pods";
    let bare =
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = c.create(pods, bare).await;
    let expected = json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}});
    assert_eq!(made["spec"]["containers"][0]["resources"], expected);
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let mut greedy = pod("b", "2");
    greedy["spec"]["containers"][0]["resources"]["limits"] = json!({"cpu": "2"});
    let (status, answer) = c.send("POST", pods, greedy).await;
    assert_eq!((status, answer["reason"].as_str().unwrap()), (403, "Forbidden"), "{answer}");
    let text = "maximum cpu usage per Container is 1, but request is 2";
    assert!(answer["message"].as_str().unwrap().contains(text), "{answer}");
}

async fn with_nodes(count: usize) -> Cluster {
    let settings = wharf_controllers::Settings { fake_nodes: count, ..Default::default() };
    let c = Cluster::with(settings).await;
    c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
    for n in 0..count {
        let free = |o: &Value| o["spec"].get("taints").is_none();
        c.until(&format!("/api/v1/nodes/fake-{n}"), free).await;
    }
    c
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_on_fake_nodes_run_and_end() {
    let c = with_nodes(2).await;
    let pods = "/api/v1/namespaces/default/pods";
    c.create(pods, pod("a", "1")).await;
    let running = |o: &Value| o["status"]["phase"] == "Running" && o["status"]["podIP"].is_string();
    c.until(&format!("{pods}/a"), running).await;
    let mut once = pod("b", "1");
    once["spec"]["restartPolicy"] = json!("Never");
    c.create(pods, once).await;
    c.until(&format!("{pods}/b"), |o| o["status"]["phase"] == "Succeeded").await;
    c.create(pods, pod("c", "1000")).await;
    let why = "0/2 nodes are available: 2 Insufficient cpu.";
    c.until(&format!("{pods}/c"), |o| o["status"]["conditions"][0]["message"] == why).await;
    let events = |pod: &str| {
        format!("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={pod}")
    };
    let told = |reason: &'static str, message: &'static str| {
        move |o: &Value| {
            let list = o["items"].as_array().into_iter().flatten();
            list.into_iter().any(|e| {
                let text = e["message"].as_str().unwrap_or_default();
                e["reason"] == reason && text.starts_with(message)
            })
        }
    };
    c.until(&events("a"), told("Scheduled", "Successfully assigned default/a to fake-")).await;
    c.until(&events("c"), told("FailedScheduling", why)).await;
    c.send("DELETE", &format!("{pods}/a"), Value::Null).await;
    c.gone(&format!("{pods}/a")).await;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/fake-0";
    c.until(lease, |o| o["spec"]["holderIdentity"] == "fake-0").await;
    c.until(lease, |o| o["metadata"]["ownerReferences"][0]["kind"] == "Node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fake_node_says_of_a_pod_what_a_kubelet_would() {
    let c = with_nodes(1).await;
    let pods = "/api/v1/namespaces/default/pods";
    let mut host = pod("h", "1");
    host["spec"]["hostNetwork"] = json!(true);
    c.create(pods, host).await;
    let own = |o: &Value| {
        let s = &o["status"];
        s["phase"] == "Running" && s["podIP"] == s["hostIP"] && s["hostIP"] == "10.64.0.1"
    };
    c.until(&format!("{pods}/h"), own).await;
    let one = format!("{pods}/a");
    c.create(pods, pod("a", "1")).await;
    let seen = |n: i64| {
        move |o: &Value| {
            let s = &o["status"];
            s["observedGeneration"] == n && s["containerStatuses"][0]["resources"].is_object()
        }
    };
    c.until(&one, seen(1)).await;
    let more = json!({"requests": {"cpu": "2"}});
    let change = json!({"spec": {"containers": [{"name": "c", "resources": more}]}});
    c.send("PATCH", &format!("{one}/resize"), change).await;
    let resized = c.until(&one, seen(2)).await;
    assert_eq!(resized["status"]["containerStatuses"][0]["allocatedResources"], more["requests"]);
    c.send("PATCH", &one, json!({"spec": {"activeDeadlineSeconds": 1}})).await;
    c.until(&one, |o| o["status"]["reason"] == "DeadlineExceeded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_and_back() {
    let c = with_nodes(2).await;
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
    c.create(all, deployment).await;
    let web = format!("{all}/web");
    let done = |o: &Value| {
        let s = &o["status"];
        s["observedGeneration"] == o["metadata"]["generation"]
            && [&s["replicas"], &s["updatedReplicas"], &s["availableReplicas"]]
                .iter()
                .all(|n| **n == o["spec"]["replicas"])
    };
    c.until(&web, done).await;
    let image = |i: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": i}]}}}});
    c.send("PATCH", &web, image("i:2")).await;
    let second = c.until(&web, done).await;
    assert_eq!(second["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    c.send("PATCH", &web, json!({"spec": {"replicas": 5}})).await;
    c.until(&web, done).await;
    c.send("PATCH", &web, image("i:1")).await;
    let third = c.until(&web, done).await;
    assert_eq!(third["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    let (_, sets) =
        c.send("GET", "/apis/apps/v1/namespaces/default/replicasets", Value::Null).await;
    assert_eq!(sets["items"].as_array().unwrap().len(), 2, "the older one is used again");
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    c.create("/api/v1/namespaces/default/services", service).await;
    let leads = |o: &Value| o["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 5);
    c.until("/api/v1/namespaces/default/endpoints/web", leads).await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name=web";
    c.until(slices, |o| o["items"][0]["endpoints"].as_array().is_some_and(|e| e.len() == 5)).await;
    c.send("DELETE", &format!("{web}?propagationPolicy=Foreground"), Value::Null).await;
    c.gone(&web).await;
    let pods = "/api/v1/namespaces/default/pods";
    c.until(pods, |o| o["items"].as_array().unwrap().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_until_it_is_complete() {
    let c = with_nodes(1).await;
    let all = "/apis/batch/v1/namespaces/default/jobs";
    let template =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 3, "parallelism": 2,
        "completionMode": "Indexed", "ttlSecondsAfterFinished": 2, "template": template}});
    c.create(all, job).await;
    let path = format!("{all}/j");
    let complete = |o: &Value| o["status"]["conditions"].to_string().contains("CompletionsReached");
    let done = c.until(&path, complete).await;
    assert_eq!(
        (&done["status"]["succeeded"], &done["status"]["completedIndexes"]),
        (&json!(3), &json!("0-2"))
    );
    c.gone(&path).await;
    let pods = "/api/v1/namespaces/default/pods";
    c.until(pods, |o| o["items"].as_array().unwrap().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_and_changes_only_what_is_its_own() {
    let c = with_nodes(2).await;
    let node = |name: &str| {
        wharf_apiserver::user::User::new(
            format!("system:node:{name}"),
            vec!["system:nodes".to_owned()],
        )
    };
    let secrets = "/api/v1/namespaces/default/secrets";
    c.create(secrets, json!({"metadata": {"name": "s"}})).await;
    let mut user = pod("a", "1");
    user["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    c.create("/api/v1/namespaces/default/pods", user).await;
    let placed = |o: &Value| o["spec"]["nodeName"].is_string();
    let pod = c.until("/api/v1/namespaces/default/pods/a", placed).await;
    let own = pod["spec"]["nodeName"].as_str().unwrap();
    let other = if own == "fake-0" { "fake-1" } else { "fake-0" };
    let secret = format!("{secrets}/s");
    assert_eq!(c.send_as(node(own), "GET", &secret, Value::Null).await.0, 200);
    let (status, answer) = c.send_as(node(other), "GET", &secret, Value::Null).await;
    assert_eq!(status, 403);
    let why = format!("no relationship found between node '{other}' and this object");
    assert!(answer["message"].as_str().unwrap().ends_with(&why), "{answer}");
    assert_eq!(c.send_as(node(own), "GET", secrets, Value::Null).await.0, 403);
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    let path = format!("/api/v1/nodes/{own}");
    assert_eq!(c.send_as(node(own), "PATCH", &path, label.clone()).await.0, 200);
    let (status, answer) = c.send_as(node(other), "PATCH", &path, label).await;
    assert_eq!(status, 403);
    let why = format!("node \"{other}\" is not allowed to modify node \"{own}\"");
    assert!(answer["message"].as_str().unwrap().ends_with(&why), "{answer}");
    let restricted = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/x": "y"}}});
    assert_eq!(c.send_as(node(own), "PATCH", &path, restricted).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbered_pods_come_in_order_and_daemons_are_everywhere() {
    let c = with_nodes(2).await;
    let template = |app: &str, image: &str| json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}});
    let selector = |app: &str| json!({"matchLabels": {"app": app}});
    let set = json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db", "selector": selector("db"),
        "template": template("db", "i:1"), "volumeClaimTemplates": [{"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}});
    let sets = "/apis/apps/v1/namespaces/default/statefulsets";
    c.create(sets, set).await;
    let db = format!("{sets}/db");
    let done = |o: &Value| {
        let s = &o["status"];
        s["readyReplicas"] == o["spec"]["replicas"]
            && s["updatedReplicas"] == o["spec"]["replicas"]
            && s["currentRevision"] == s["updateRevision"]
    };
    c.until(&db, done).await;
    let pods = "/api/v1/namespaces/default/pods";
    let (_, second) = c.send("GET", &format!("{pods}/db-1"), Value::Null).await;
    assert_eq!(second["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
    assert_eq!(second["spec"]["hostname"], "db-1");
    c.until("/api/v1/namespaces/default/persistentvolumeclaims/data-db-1", |_| true).await;
    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}}});
    c.send("PATCH", &db, image).await;
    c.until(&format!("{pods}/db-0"), |o| o["spec"]["containers"][0]["image"] == "i:2").await;
    c.until(&db, done).await;
    c.send("PATCH", &db, json!({"spec": {"replicas": 1}})).await;
    c.gone(&format!("{pods}/db-1")).await;
    let daemon = json!({"metadata": {"name": "d"}, "spec": {"selector": selector("d"), "template": template("d", "i")}});
    let daemons = "/apis/apps/v1/namespaces/default/daemonsets";
    c.create(daemons, daemon).await;
    c.until(&format!("{daemons}/d"), |o| o["status"]["numberAvailable"] == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_bound_evictions() {
    let c = with_nodes(1).await;
    let pods = "/api/v1/namespaces/default/pods";
    for name in ["a", "b"] {
        let mut p = pod(name, "1");
        p["metadata"]["labels"] = json!({"app": "x"});
        c.create(pods, p).await;
    }
    let budget = json!({"metadata": {"name": "x"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    c.create(budgets, budget).await;
    c.until(&format!("{budgets}/x"), |o| o["status"]["disruptionsAllowed"] == 1).await;
    let evict = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    assert_eq!(c.send("POST", &format!("{pods}/a/eviction"), evict("a")).await.0, 201);
    c.gone(&format!("{pods}/a")).await;
    c.until(&format!("{budgets}/x"), |o| o["status"]["disruptionsAllowed"] == 0).await;
    let (status, answer) = c.send("POST", &format!("{pods}/b/eviction"), evict("b")).await;
    assert_eq!(
        (status, &answer["details"]["causes"][0]["reason"]),
        (429, &json!("DisruptionBudget"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_deleted_job_are_let_go() {
    let c = Cluster::start().await;
    c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let template =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let job = json!({"metadata": {"name": "j"}, "spec": {"parallelism": 2, "template": template}});
    c.create(jobs, job).await;
    let all = "/api/v1/namespaces/default/pods";
    let held = |n: usize| {
        move |l: &Value| {
            let list = l["items"].as_array().unwrap();
            list.len() == n
                && list
                    .iter()
                    .all(|p| p["metadata"]["finalizers"][0] == "batch.kubernetes.io/job-tracking")
        }
    };
    c.until(all, held(2)).await;
    c.send("DELETE", &format!("{jobs}/j?propagationPolicy=Background"), Value::Null).await;
    c.until(all, held(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_indexes_ends_when_its_policy_is_met() {
    let c = with_nodes(1).await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let template =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let rules = json!([{"succeededIndexes": "0-1", "succeededCount": 1}]);
    let spec = json!({"completions": 40, "parallelism": 2, "completionMode": "Indexed", "template": template,
        "successPolicy": {"rules": rules}});
    c.create(jobs, json!({"metadata": {"name": "j"}, "spec": spec})).await;
    let done = |j: &Value| {
        let list = j["status"]["conditions"].as_array().cloned().unwrap_or_default();
        list.iter().any(|c| c["type"] == "Complete" && c["reason"] == "SuccessPolicy")
    };
    let j = c.until(&format!("{jobs}/j"), done).await;
    assert_eq!(j["status"]["conditions"][0]["type"], "SuccessCriteriaMet", "{j}");
    assert!(j["status"].get("failed").is_none() && j["status"].get("active").is_none(), "{j}");
    assert_eq!(j["status"]["uncountedTerminatedPods"], json!({}), "{j}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_jobs_and_tells_so() {
    let c = Cluster::start().await;
    let crons = "/apis/batch/v1/namespaces/default/cronjobs";
    let template = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let cron = |name: &str, schedule: &str, zone: &str| json!({"metadata": {"name": name}, "spec": {"schedule": schedule, "timeZone": zone, "jobTemplate": template}});
    let (status, answer) = c.send("POST", crons, cron("bad", "* * * * *", "Mars/Base")).await;
    assert_eq!(status, 422, "{answer}");
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base"),
        "{answer}"
    );
    c.create(crons, cron("c", "@every 1s", "Europe/Berlin")).await;
    let cron =
        c.until(&format!("{crons}/c"), |o| o["status"]["active"][0]["name"].is_string()).await;
    let job = format!(
        "/apis/batch/v1/namespaces/default/jobs/{}",
        cron["status"]["active"][0]["name"].as_str().unwrap()
    );
    let (_, job) = c.send("GET", &job, Value::Null).await;
    assert_eq!(job["metadata"]["ownerReferences"][0]["name"], "c", "{job}");
    c.told("CronJob", "SuccessfulCreate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_bound_to_a_volume_that_serves_it() {
    let c = Cluster::start().await;
    let volume = |name: &str, size: &str| {
        json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "manual", "hostPath": {"path": "/tmp/v"}}})
    };
    let volumes = "/api/v1/persistentvolumes";
    c.create(volumes, volume("large", "10Gi")).await;
    c.create(volumes, volume("small", "2Gi")).await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "c"}, "spec": {"storageClassName": "manual", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    c.create(claims, claim).await;
    let bound = c.until(&format!("{claims}/c"), |o| o["status"]["phase"] == "Bound").await;
    assert_eq!(
        (&bound["spec"]["volumeName"], &bound["status"]["capacity"]["storage"]),
        (&json!("small"), &json!("2Gi"))
    );
    c.until(&format!("{volumes}/small"), |o| o["status"]["phase"] == "Bound").await;
    c.until(&format!("{volumes}/large"), |o| o["status"]["phase"] == "Available").await;
    c.send("DELETE", &format!("{claims}/c"), Value::Null).await;
    c.until(&format!("{volumes}/small"), |o| o["status"]["phase"] == "Released").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_get_the_tokens_that_they_ask_for() {
    let c = Cluster::start().await;
    c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
    let secret = json!({"metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token"});
    c.create("/api/v1/namespaces/default/secrets", secret).await;
    let path = "/api/v1/namespaces/default/secrets/t";
    let filled =
        c.until(path, |o| o["data"]["token"].is_string() && o["data"]["ca.crt"].is_string()).await;
    use base64::Engine as _;
    let token = base64::engine::general_purpose::STANDARD
        .decode(filled["data"]["token"].as_str().unwrap())
        .unwrap();
    let review = json!({"spec": {"token": String::from_utf8(token).unwrap()}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let (_, told) = c.send("POST", reviews, review.clone()).await;
    assert_eq!(
        told["status"]["user"]["username"], "system:serviceaccount:default:default",
        "{told}"
    );
    c.send("DELETE", path, Value::Null).await;
    let (_, told) = c.send("POST", reviews, review).await;
    assert_ne!(told["status"]["authenticated"], true, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_without_metrics_says_so_and_keeps_its_bounds() {
    let c = Cluster::start().await;
    c.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec =
        json!({"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    c.create(deployments, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let scaler = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": target, "minReplicas": 3, "maxReplicas": 5}});
    c.create("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", scaler).await;
    c.until(&format!("{deployments}/d"), |o| o["spec"]["replicas"] == 3).await;
    c.told("HorizontalPodAutoscaler", "SuccessfulRescale").await;
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h";
    let has = |o: &Value, kind: &str, status: &str, reason: &str| {
        let list = o["status"]["conditions"].as_array().cloned().unwrap_or_default();
        list.iter().any(|c| c["type"] == kind && c["status"] == status && c["reason"] == reason)
    };
    // The next look is after fifteen seconds.
    let o = c.until(path, |o| has(o, "ScalingActive", "False", "FailedGetResourceMetric")).await;
    assert!(has(&o, "AbleToScale", "True", "SucceededGetScale"), "{o}");
    assert_eq!(o["status"]["desiredReplicas"], 3, "{o}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_numbered_set_that_is_replaced_takes_over_what_is_there() {
    let c = with_nodes(1).await;
    let sets = "/apis/apps/v1/namespaces/default/statefulsets";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 2, "serviceName": "s", "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let set = json!({"metadata": {"name": "w"}, "spec": spec});
    let ready = |o: &Value| o["status"]["readyReplicas"] == 2;
    c.create(sets, set.clone()).await;
    let first = c.until(&format!("{sets}/w"), ready).await;
    let (_, pod) = c.send("GET", "/api/v1/namespaces/default/pods/w-1", Value::Null).await;
    c.send("DELETE", &format!("{sets}/w?propagationPolicy=Orphan"), Value::Null).await;
    c.gone(&format!("{sets}/w")).await;
    c.create(sets, set).await;
    let second = c.until(&format!("{sets}/w"), ready).await;
    assert_eq!(first["status"]["updateRevision"], second["status"]["updateRevision"]);
    let (_, now) = c.send("GET", "/api/v1/namespaces/default/pods/w-1", Value::Null).await;
    assert_eq!(pod["metadata"]["uid"], now["metadata"]["uid"]);
    assert_eq!(now["metadata"]["ownerReferences"][0]["uid"], second["metadata"]["uid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_in_a_circle_go_together() {
    let c = Cluster::start().await;
    let all = "/api/v1/namespaces/default/configmaps";
    let mut uids = Vec::new();
    for name in ["a", "b", "c"] {
        let made = c.create(all, json!({"metadata": {"name": name}})).await;
        uids.push(made["metadata"]["uid"].clone());
    }
    for (i, name) in ["a", "b", "c"].iter().enumerate() {
        let before = (i + 2) % 3;
        let named = ["a", "b", "c"][before];
        let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": named,
            "uid": uids[before], "blockOwnerDeletion": true}]);
        let patch = json!({"metadata": {"ownerReferences": owner}});
        c.send("PATCH", &format!("{all}/{name}"), patch).await;
    }
    c.send("DELETE", &format!("{all}/a?propagationPolicy=Foreground"), Value::Null).await;
    for name in ["a", "b", "c"] {
        c.gone(&format!("{all}/{name}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_told_of_mistakes_in_their_expressions() {
    let c = Cluster::start().await;
    let all = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let rules = json!([{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]);
    for (name, expression) in [
        (
            "good",
            "object.spec.replicas < 5 && object.metadata.labels['a'] == 'b' && object.metadata.creationTimestamp > timestamp('2020-01-01T00:00:00Z')",
        ),
        ("bad", "object.spec.replicaz < 5"),
    ] {
        let policy = json!({"metadata": {"name": name}, "spec": {"matchConstraints": {"resourceRules": rules},
            "validations": [{"expression": expression}]}});
        c.create(all, policy).await;
    }
    let seen = |o: &Value| o["status"]["observedGeneration"] == 1;
    let good = c.until(&format!("{all}/good"), seen).await;
    assert_eq!(good["status"]["typeChecking"], json!({}), "{good}");
    let bad = c.until(&format!("{all}/bad"), seen).await;
    let warning = &bad["status"]["typeChecking"]["expressionWarnings"][0];
    assert_eq!(warning["fieldRef"], "spec.validations[0].expression");
    let why = "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replicaz'";
    assert!(warning["warning"].as_str().unwrap().starts_with(why), "{bad}");
}
