//! A block: a section of a page that is rendered alone, refreshed alone and fails alone.

use std::fmt;

use askama::{Template, filters::HtmlSafe};

/// Finished HTML of one block, under the name by which live updates call it.
///
/// It can only be made by rendering a template, which escapes everything it is given; that is why the page
/// templates may print it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    html: String,
}

#[derive(Template)]
#[template(path = "blocks/failed.html")]
struct Failed<'a> {
    name: &'a str,
    title: &'a str,
    reason: &'a str,
}

impl Block {
    /// Renders a block. A template that fails leaves a block that says so; the page around it stands.
    pub fn render(name: &'static str, title: &'static str, template: &impl Template) -> Self {
        match template.render() {
            Ok(html) => Self { html },
            Err(error) => {
                tracing::error!(block = name, %error, "failed to render a block");
                Self::failed(name, title, "The template could not be rendered.")
            }
        }
    }

    /// A block whose content could not be had, with the reason.
    pub fn failed(name: &'static str, title: &'static str, reason: &str) -> Self {
        let html = Failed { name, title, reason }.render().unwrap_or_default();
        Self { html }
    }

    /// No block at all, where a page has none at this place.
    pub fn none() -> Self {
        Self { html: String::new() }
    }

    /// The HTML, for sending it on its own.
    pub fn html(&self) -> &str {
        &self.html
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.html)
    }
}

impl HtmlSafe for Block {}
