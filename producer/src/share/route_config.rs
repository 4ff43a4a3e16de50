//! The configuration of a share's routes, `[[share.<name>.route]]`.

use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::FieldProblem;

use super::condition::Condition;
use super::config::{SEND_ALL, SealWith, ShareConfig, seal_with, validate_list};
use super::filter::Filter;
use super::route::{Route, Routes};

/// One route of a share, `[[share.NAME.route]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The records it takes, as an encoded query.
    pub when: String,
    /// The shared queue. Default: the share's.
    #[serde(default)]
    pub queue: Option<String>,
    /// The key it seals with, or `cipher`. Default: what the share seals with.
    #[serde(default)]
    pub key: Option<String>,
    /// `None` or `Base64`, for routes without a key.
    #[serde(default)]
    #[schemars(extend("enum" = ["None", "Base64"]))]
    pub cipher: Option<String>,
    /// The columns that leave by it. Default: the share's.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
}

/// Which routes a record takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RouteMatch {
    /// The first it fits.
    First,
    /// Every one it fits.
    All,
}

/// What becomes of a record no route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoRoute {
    /// It goes to the share's own queue.
    Queue,
    /// It is withheld and counted.
    Withhold,
}

impl ShareConfig {
    pub(super) fn validate_routing(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        match (self.route.is_empty(), self.routes) {
            (false, None) => {
                problems.push(("routes", "is missing; which routes a record takes: \"first\" or \"all\"".to_owned()));
            }
            (true, Some(_)) => problems.push(("routes", "is about [[share.NAME.route]], and there is none".to_owned())),
            (true, None) | (false, Some(_)) => {}
        }
        if self.route.is_empty() && self.no_route.is_some() {
            problems.push(("no_route", "is about [[share.NAME.route]], and there is none".to_owned()));
        }
        problems
    }

    /// Everything wrong with its routes, with the number of each, from 1.
    #[must_use]
    pub fn validate_routes(&self) -> Vec<(usize, FieldProblem)> {
        let mut problems = Vec::new();
        for (place, route) in self.route.iter().enumerate() {
            let mut problem = |field, text: String| problems.push((place + 1, (field, text)));
            if let Err(fault) = Filter::parse(&route.when, TimeZone::UTC) {
                problem("when", fault.to_string());
            }
            if route.queue.as_deref() == Some("") {
                problem("queue", "is empty; a name in [shared_queue], or leave it out for the share's own".to_owned());
            }
            if let Err((field, text)) = self.route_seals_with(route)
                && (route.key.is_some() || route.cipher.is_some())
            {
                problem(field, text);
            }
            let columns = route.columns.iter().flat_map(|columns| validate_list(columns, SEND_ALL));
            columns.for_each(|text| problem("columns", text));
            let queue = self.queue_of(route);
            let twin = self.route.iter().take(place).position(|other| self.queue_of(other) == queue);
            if let Some(twin) = twin.filter(|_| self.routes == Some(RouteMatch::All)) {
                let text = format!(
                    "{queue} is the queue of route {}, and a record that fits both would go there twice; one \
                                    route for each queue, or routes = \"first\"",
                    twin + 1
                );
                problem("queue", text);
            }
        }
        problems
    }

    /// The shared queue of one of its routes.
    #[must_use]
    pub fn queue_of<'a>(&'a self, route: &'a RouteConfig) -> &'a str {
        route.queue.as_deref().unwrap_or(&self.queue)
    }

    /// Every shared queue it may send to; some may come twice.
    pub fn queues(&self) -> impl Iterator<Item = &str> {
        let own = (self.route.is_empty() || self.no_route != Some(NoRoute::Withhold)).then_some(&*self.queue);
        own.into_iter().chain(self.route.iter().map(|route| self.queue_of(route)))
    }

    pub(super) fn compile_routes(&self, zone: &TimeZone) -> Result<Routes, FieldProblem> {
        let route = |config: &RouteConfig| {
            let when = self.parse(&config.when, zone.clone()).map_err(|cause| ("when", cause.to_string()))?;
            Ok(Route { when: Condition::new(when), queue: self.queue_of(config).into() })
        };
        let routes = self.route.iter().map(route).collect::<Result<_, _>>()?;
        let own = self.no_route != Some(NoRoute::Withhold);
        Ok(Routes::new(&self.queue, own, self.routes == Some(RouteMatch::All), routes))
    }

    /// The selected columns of the share's own queue and of each route.
    pub(super) fn selections(&self) -> Vec<Option<Vec<Box<str>>>> {
        let boxed = |columns: &[String]| columns.iter().map(|column| column.as_str().into()).collect();
        let routes = self.route.iter().map(|route| route.columns.as_deref().or(self.listed_columns()).map(boxed));
        std::iter::once(self.listed_columns().map(boxed)).chain(routes).collect()
    }

    /// What one of its routes seals with.
    ///
    /// # Errors
    /// The problem, when `key` and `cipher` do not say it.
    pub fn route_seals_with(&self, route: &RouteConfig) -> Result<SealWith, FieldProblem> {
        match (&route.key, &route.cipher) {
            (None, None) => self.seal_with(),
            (key, cipher) => seal_with(key.as_deref(), cipher.as_deref()),
        }
    }
}
