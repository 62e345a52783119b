//! `moso settings`.

use super::exit::Usage;
use super::output::{Output, Table, fields};
use super::{object, text};
use anyhow::Result;
use clap::Subcommand;
use moso_client::Client;
use moso_proto::object::{Setting, kind::SETTING};
use moso_proto::setting::{self, Schema};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub enum Settings {
    /// List all settings with their values.
    List,
    /// Show a setting: value, range, meaning.
    Get { name: String },
    /// Change a setting.
    Set { name: String, value: u64 },
    /// Show what a setting was, newest first.
    History { name: String },
}

impl Settings {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        match self {
            Settings::List => list(client, out).await,
            Settings::Get { name } => get(client, out, schema(&name)?).await,
            Settings::Set { name, value } => {
                let schema = schema(&name)?;
                check(schema, value)?;
                let setting = Setting { value };
                client.put_object(SETTING, schema.name, &setting, None).await?;
                get(client, out, schema).await
            }
            Settings::History { name } => history(client, out, schema(&name)?).await,
        }
    }
}

fn schema(name: &str) -> Result<&'static Schema> {
    setting::find(name).ok_or_else(|| {
        let names: Vec<_> = setting::ALL.iter().map(|schema| schema.name).collect();
        Usage(format!("no setting is named {name:?}; there are {}", names.join(", "))).into()
    })
}

fn check(schema: &Schema, value: u64) -> Result<()> {
    let Schema { name, unit, min, max, .. } = schema;
    match (*min..=*max).contains(&value) {
        true => Ok(()),
        false => Err(Usage(format!("{name} is {min} to {max} {unit}, not {value}")).into()),
    }
}

async fn list(client: &Client, out: &Output) -> Result<()> {
    let set = object::list::<Setting>(client, SETTING).await?;
    let value = |schema: &Schema| {
        let found = set.iter().find(|(name, _)| name == schema.name);
        found.map_or(schema.default, |(_, setting)| setting.value)
    };
    let rows: Vec<_> = setting::ALL.iter().map(|s| to_json(s, value(s))).collect();
    out.show(&rows, |_| {
        let mut table = Table::new(["SETTING", "VALUE", "UNIT", "DEFAULT", "MEANING"]);
        for schema in &setting::ALL {
            table.row([
                schema.name.into(),
                value(schema).to_string(),
                schema.unit.into(),
                schema.default.to_string(),
                schema.doc.into(),
            ]);
        }
        table.render()
    })
}

async fn get(client: &Client, out: &Output, schema: &Schema) -> Result<()> {
    let found = object::find::<Setting>(client, SETTING, schema.name).await?;
    let value = found.map_or(schema.default, |(setting, _)| setting.value);
    out.show(&to_json(schema, value), |_| {
        fields([
            ("setting", schema.name.into()),
            ("value", format!("{value} {}", schema.unit)),
            ("default", format!("{} {}", schema.default, schema.unit)),
            ("range", format!("{} to {}", schema.min, schema.max)),
            ("meaning", schema.doc.into()),
        ])
    })
}

fn to_json(schema: &Schema, value: u64) -> serde_json::Value {
    json!({
        "name": schema.name,
        "value": value,
        "unit": schema.unit,
        "min": schema.min,
        "max": schema.max,
        "default": schema.default,
        "meaning": schema.doc,
    })
}

async fn history(client: &Client, out: &Output, schema: &Schema) -> Result<()> {
    let versions = match client.object_history(SETTING, schema.name).await {
        Err(error) if error.code() == Some(moso_client::Code::NotFound) => Vec::new(),
        versions => versions?,
    };
    out.show(&versions, |versions| {
        let mut table = Table::new(["TIME", "VALUE", "VERSION", "BY"]);
        for object in versions {
            let setting = serde_json::from_str::<Setting>(&object.json);
            table.row([
                text::time(object.time_ms),
                setting.map_or_else(|_| "default".into(), |setting| setting.value.to_string()),
                object.version.to_string(),
                object.author.clone(),
            ]);
        }
        table.render()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ranges_are_checked_before_anything_is_sent() {
        assert!(schema("no_such").unwrap_err().to_string().contains("archive_days"));
        let days = schema("archive_days").unwrap();
        assert!(check(days, days.max).is_ok());
        let error = check(days, days.max + 1).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("days"), "{error}");
    }
}
