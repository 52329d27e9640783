-- The tables as a Supabase project with Edge Functions has them: enums, limits on lengths, values that triggers fill in,
-- policies, clients of agencies, a view, a publication. A call is linked to its contact only by campaign_contacts.call_id.

DO $$ BEGIN CREATE ROLE anon NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
DO $$ BEGIN CREATE ROLE authenticated NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
DO $$ BEGIN CREATE ROLE service_role NOLOGIN BYPASSRLS; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;

CREATE SCHEMA auth;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
    $$ SELECT (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid $$;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;

CREATE TYPE app_role AS ENUM (
    'admin', 'agency_owner', 'agency_admin', 'agency_member', 'client_admin', 'client_viewer', 'support'
);
CREATE TYPE batch_status AS ENUM (
    'pending', 'scheduled', 'processing', 'paused', 'completed', 'cancelled', 'failed'
);
CREATE TYPE campaign_contact_status AS ENUM (
    'pending', 'queued', 'scheduled', 'in_progress', 'completed', 'failed', 'skipped', 'callback'
);

CREATE FUNCTION fill_timestamps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.created_at := coalesce(NEW.created_at, now());
        NEW.updated_at := coalesce(NEW.updated_at, now());
    ELSE
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END;
$$;

-- Only where it is NULL: a default of '' would leave every new agency with an empty secret.
CREATE FUNCTION fill_webhook_secret() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.webhook_secret IS NULL THEN
        NEW.webhook_secret := replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
    END IF;
    RETURN NEW;
END;
$$;

CREATE TABLE agencies (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(120) NOT NULL,
    slug varchar(80),
    webhook_secret text NOT NULL,
    settings jsonb,
    monthly_minutes int,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE TRIGGER agencies_secret BEFORE INSERT ON agencies FOR EACH ROW EXECUTE FUNCTION fill_webhook_secret();
CREATE TRIGGER agencies_timestamps BEFORE INSERT OR UPDATE ON agencies
    FOR EACH ROW EXECUTE FUNCTION fill_timestamps();

CREATE TABLE clients (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    name varchar(120) NOT NULL,
    created_at timestamptz DEFAULT now()
);

CREATE TABLE users (
    id uuid PRIMARY KEY,
    agency_id uuid REFERENCES agencies ON DELETE CASCADE,
    client_id uuid REFERENCES clients ON DELETE SET NULL,
    role app_role NOT NULL DEFAULT 'agency_member',
    email varchar(255),
    full_name varchar(120),
    created_at timestamptz DEFAULT now()
);

CREATE TABLE campaigns (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    client_id uuid REFERENCES clients ON DELETE SET NULL,
    name varchar(200),
    is_archived boolean,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE TRIGGER campaigns_timestamps BEFORE INSERT OR UPDATE ON campaigns
    FOR EACH ROW EXECUTE FUNCTION fill_timestamps();

CREATE TABLE agent_mappings (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    client_id uuid REFERENCES clients ON DELETE SET NULL,
    ultravox_agent_id varchar(64) NOT NULL,
    ultravox_agent_name varchar(120),
    created_at timestamptz DEFAULT now()
);

CREATE TABLE agency_phone_numbers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    phone_number varchar(20) NOT NULL,
    is_active boolean,
    status varchar(20),
    created_at timestamptz DEFAULT now()
);

CREATE TABLE call_batches (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    campaign_id uuid NOT NULL REFERENCES campaigns ON DELETE CASCADE,
    agent_mapping_id uuid NOT NULL REFERENCES agent_mappings ON DELETE CASCADE,
    from_number varchar(20) NOT NULL,
    status batch_status NOT NULL DEFAULT 'pending',
    calls_per_minute int NOT NULL DEFAULT 20,
    max_concurrent int NOT NULL DEFAULT 5,
    total_contacts int NOT NULL DEFAULT 0,
    queued int NOT NULL DEFAULT 0,
    in_progress int NOT NULL DEFAULT 0,
    completed int NOT NULL DEFAULT 0,
    failed int NOT NULL DEFAULT 0,
    skipped int NOT NULL DEFAULT 0,
    scheduled_for timestamptz,
    started_at timestamptz,
    paused_at timestamptz,
    completed_at timestamptz,
    error_message varchar(500),
    created_by uuid REFERENCES users ON DELETE SET NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX call_batches_agency_idx ON call_batches (agency_id);
CREATE TRIGGER call_batches_timestamps BEFORE INSERT OR UPDATE ON call_batches
    FOR EACH ROW EXECUTE FUNCTION fill_timestamps();

CREATE VIEW call_batch_overview WITH (security_barrier) AS
    SELECT id, agency_id, campaign_id, status, total_contacts, total_contacts - completed - failed - skipped AS remaining
    FROM call_batches;

CREATE TABLE calls (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    client_id uuid REFERENCES clients ON DELETE SET NULL,
    campaign_id uuid REFERENCES campaigns ON DELETE SET NULL,
    agent_mapping_id uuid REFERENCES agent_mappings ON DELETE SET NULL,
    ultravox_call_id varchar(64),
    direction varchar(10) NOT NULL,
    source varchar(30),
    from_number varchar(20),
    to_number varchar(20),
    status varchar(20) NOT NULL DEFAULT 'initiated',
    end_reason varchar(40),
    started_at timestamptz,
    joined_at timestamptz,
    ended_at timestamptz,
    duration_seconds int,
    cost numeric(10, 4),
    metadata jsonb,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX calls_agency_idx ON calls (agency_id, created_at);
CREATE TRIGGER calls_timestamps BEFORE INSERT OR UPDATE ON calls FOR EACH ROW EXECUTE FUNCTION fill_timestamps();

CREATE TABLE campaign_contacts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agency_id uuid NOT NULL REFERENCES agencies ON DELETE CASCADE,
    campaign_id uuid NOT NULL REFERENCES campaigns ON DELETE CASCADE,
    batch_id uuid REFERENCES call_batches ON DELETE CASCADE,
    phone_number varchar(20) NOT NULL,
    first_name varchar(100),
    last_name varchar(100),
    email varchar(255),
    company varchar(200),
    custom_data jsonb,
    status campaign_contact_status NOT NULL DEFAULT 'pending',
    call_id uuid,
    attempts int NOT NULL DEFAULT 0,
    max_attempts int NOT NULL DEFAULT 3,
    outcome varchar(50),
    outcome_notes text,
    duration_seconds int,
    last_attempt_at timestamptz,
    completed_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX campaign_contacts_batch_idx ON campaign_contacts (batch_id);
CREATE INDEX campaign_contacts_status_idx ON campaign_contacts (status);
CREATE TRIGGER campaign_contacts_timestamps BEFORE INSERT OR UPDATE ON campaign_contacts
    FOR EACH ROW EXECUTE FUNCTION fill_timestamps();

ALTER TABLE agencies ENABLE ROW LEVEL SECURITY;
ALTER TABLE clients ENABLE ROW LEVEL SECURITY;
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE campaigns ENABLE ROW LEVEL SECURITY;
ALTER TABLE agent_mappings ENABLE ROW LEVEL SECURITY;
ALTER TABLE agency_phone_numbers ENABLE ROW LEVEL SECURITY;
ALTER TABLE call_batches ENABLE ROW LEVEL SECURITY;
ALTER TABLE campaign_contacts ENABLE ROW LEVEL SECURITY;
ALTER TABLE calls ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_row ON users FOR SELECT TO authenticated USING (id = auth.uid());
CREATE POLICY own_agency ON campaigns FOR SELECT TO authenticated
    USING (agency_id IN (SELECT agency_id FROM users WHERE id = auth.uid()));
CREATE POLICY own_agency ON call_batches FOR SELECT TO authenticated
    USING (agency_id IN (SELECT agency_id FROM users WHERE id = auth.uid()));
CREATE POLICY own_agency ON campaign_contacts FOR SELECT TO authenticated
    USING (agency_id IN (SELECT agency_id FROM users WHERE id = auth.uid()));
GRANT SELECT ON users, campaigns, call_batches, campaign_contacts TO authenticated;
GRANT ALL ON ALL TABLES IN SCHEMA public TO service_role;

-- A server whose wal_level is not logical warns that it cannot publish.
SET client_min_messages = error;
CREATE PUBLICATION supabase_realtime FOR TABLE campaign_contacts;
RESET client_min_messages;

INSERT INTO agencies (name, slug) VALUES ('Green Field', 'green-field'), ('Blue Lake', 'blue-lake');
INSERT INTO clients (agency_id, name) SELECT id, 'Dental practice' FROM agencies;
INSERT INTO campaigns (agency_id, client_id, name)
    SELECT agency_id, id, 'Reminders' FROM clients UNION ALL SELECT id, NULL, 'Survey' FROM agencies;
INSERT INTO agent_mappings (agency_id, client_id, ultravox_agent_id, ultravox_agent_name)
    SELECT agency_id, id, 'agent-' || left(id::text, 8), 'Receptionist' FROM clients;
INSERT INTO agency_phone_numbers (agency_id, phone_number, is_active, status)
    SELECT id, '+12125550199', true, 'active' FROM agencies;
INSERT INTO users (id, agency_id, role, email)
    SELECT gen_random_uuid(), id, role, role || '@' || slug || '.example'
    FROM agencies, unnest('{agency_owner,agency_member}'::app_role[]) AS role;
INSERT INTO users (id, agency_id, client_id, role) SELECT gen_random_uuid(), agency_id, id, 'client_viewer' FROM clients;
INSERT INTO call_batches (agency_id, campaign_id, agent_mapping_id, from_number, status, started_at)
    SELECT c.agency_id, c.id, m.id, '+12125550199', 'processing', now() FROM campaigns c JOIN agent_mappings m USING (agency_id);

-- Each batch: 500 contacts that wait, 5 that were called, and 5 whose call is in progress.
INSERT INTO campaign_contacts (agency_id, campaign_id, batch_id, phone_number, first_name, status)
    SELECT agency_id, campaign_id, id, '+1212555' || to_char(i, 'FM0000'), 'Ann',
        CASE WHEN i <= 250 THEN 'queued' ELSE 'pending' END::campaign_contact_status
    FROM call_batches, generate_series(1, 500) AS i;
INSERT INTO campaign_contacts (
    agency_id, campaign_id, batch_id, phone_number, status, call_id, attempts, last_attempt_at, outcome, completed_at,
    duration_seconds
)
    SELECT agency_id, campaign_id, id, '+1212556' || to_char(i, 'FM0000'),
        CASE WHEN i <= 5 THEN 'completed' ELSE 'in_progress' END::campaign_contact_status, gen_random_uuid(), 1,
        now() - interval '1 minute', CASE WHEN i <= 5 THEN 'answered' END, CASE WHEN i <= 5 THEN now() END,
        CASE WHEN i <= 5 THEN 30 END
    FROM call_batches, generate_series(1, 10) AS i;
INSERT INTO calls (
    id, agency_id, client_id, campaign_id, agent_mapping_id, ultravox_call_id, direction, source, from_number, to_number,
    status, started_at, ended_at, cost
)
    SELECT x.call_id, x.agency_id, p.client_id, x.campaign_id, b.agent_mapping_id, 'uv-' || x.call_id, 'outbound', 'batch',
        b.from_number, x.phone_number, CASE WHEN x.outcome IS NULL THEN 'initiated' ELSE 'ended' END, x.last_attempt_at,
        x.completed_at, 0.05
    FROM campaign_contacts x JOIN call_batches b ON b.id = x.batch_id JOIN campaigns p ON p.id = x.campaign_id
    WHERE x.call_id IS NOT NULL;
INSERT INTO calls (agency_id, ultravox_call_id, direction, source, from_number, to_number, status)
    SELECT id, 'uv-in-' || slug, 'inbound', 'phone', '+12125550777', '+12125550199', 'ended' FROM agencies;
UPDATE call_batches SET total_contacts = 510, queued = 500, in_progress = 5, completed = 5;
